//! DynamoDB: an engine in this process, reached over HTTP.
//!
//! The function's calls reach an [`Upstream`], which passes them to the engine unless a script says
//! otherwise; the engine has its own thread and port. It does not verify signatures, and it does
//! not remove expired items.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use dynoxide::Database;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::behaviour::Behaviour;
use crate::http_server::{Response, response};
use crate::upstream::{Answer, Call, Listening, Service, Upstream};

/// The table that the function uses by default.
pub const HISTORY_TABLE: &str = "chat-history";

/// The index by which an owner's conversations are listed.
pub const INDEX: &str = "owner-updated_at-index";

const TARGET: &str = "x-amz-target";
const TARGET_PREFIX: &str = "DynamoDB_20120810.";
const JSON: &str = "application/x-amz-json-1.0";

/// Where the tables are kept.
#[derive(Clone, Debug)]
pub enum Storage {
    /// They end with the engine.
    Memory,
    /// In a file, which is created if it does not exist.
    File(PathBuf),
}

/// A running engine; it ends when dropped.
pub type Engine = Upstream<DynamoDb>;

/// The engine behind the [`Upstream`].
pub struct DynamoDb {
    address: SocketAddr,
    /// How many writes of each of the next batches are carried out.
    batches: Mutex<VecDeque<usize>>,
    thread: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Upstream<DynamoDb> {
    /// An engine on a free port.
    ///
    /// # Errors
    /// The file cannot be used, or there is no port.
    pub fn start(storage: &Storage) -> io::Result<Self> {
        Self::start_at(Listening::default(), storage)
    }

    /// # Errors
    /// The file cannot be used, or the port cannot be bound.
    pub fn start_at(listening: Listening, storage: &Storage) -> io::Result<Self> {
        Self::serve(DynamoDb::start(storage)?, listening)
    }

    /// Creates the table that the function needs, or adds what an existing table lacks.
    ///
    /// # Errors
    /// The engine's own, such as for an illegal name.
    pub async fn create_history_table(&self, name: &str) -> Result<(), Value> {
        self.create_history_table_without_index(name).await?;
        let index = json!({
            "IndexName": INDEX,
            "KeySchema": [
                {"AttributeName": "owner", "KeyType": "HASH"}, {"AttributeName": "updated_at", "KeyType": "RANGE"}
            ],
            "Projection": {"ProjectionType": "ALL"},
        });
        self.create_index(name, index).await
    }

    /// Adds an index with the keys `owner` and `updated_at` to a table, unless it already has one of that name.
    ///
    /// # Errors
    /// The engine's own.
    pub async fn create_index(&self, table: &str, index: Value) -> Result<(), Value> {
        let described = self.call("DescribeTable", json!({"TableName": table})).await?;
        let indices = described["Table"]["GlobalSecondaryIndexes"].as_array().map(Vec::as_slice).unwrap_or_default();
        if indices.iter().any(|there| there["IndexName"] == index["IndexName"]) {
            return Ok(());
        }
        let update = json!({
            "TableName": table,
            "AttributeDefinitions": [
                {"AttributeName": "owner", "AttributeType": "S"}, {"AttributeName": "updated_at", "AttributeType": "S"}
            ],
            "GlobalSecondaryIndexUpdates": [{"Create": index}],
        });
        self.call("UpdateTable", update).await.map(drop)
    }

    /// Creates a table as earlier versions of the function needed it, unless it exists already.
    ///
    /// # Errors
    /// The engine's own, such as for an illegal name.
    pub async fn create_history_table_without_index(&self, name: &str) -> Result<(), Value> {
        let table = json!({
            "TableName": name,
            "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [
                {"AttributeName": "pk", "AttributeType": "S"},
                {"AttributeName": "sk", "AttributeType": "S"},
            ],
            "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        });
        match self.call("CreateTable", table).await {
            Err(error) if error_name(&error) == "ResourceInUseException" => {}
            created => drop(created?),
        }
        let expiry = json!({"AttributeName": "expires_at", "Enabled": true});
        self.call("UpdateTimeToLive", json!({"TableName": name, "TimeToLiveSpecification": expiry})).await?;
        Ok(())
    }

    /// Calls the engine directly: no script applies, and the call is not recorded.
    ///
    /// # Errors
    /// The engine's answer, if it is an error.
    pub async fn call(&self, operation: &str, body: Value) -> Result<Value, Value> {
        let (status, answer) = self.service().call(operation, &body).await;
        if status.is_success() { Ok(answer) } else { Err(answer) }
    }

    /// All items of a table, by their keys.
    ///
    /// # Panics
    /// If the scan fails.
    pub async fn items(&self, table: &str) -> Vec<Value> {
        let mut items = Vec::new();
        let mut scan = json!({"TableName": table, "ConsistentRead": true});
        loop {
            let mut page = self.call("Scan", scan.clone()).await.expect("the engine scans the table");
            items.append(page["Items"].as_array_mut().expect("a page has items"));
            match page.get("LastEvaluatedKey") {
                Some(key) => scan["ExclusiveStartKey"] = key.clone(),
                None => break,
            }
        }
        let key = |item: &Value| ["pk", "sk"].map(|name| item[name]["S"].as_str().unwrap_or_default().to_owned());
        items.sort_by_key(key);
        items
    }

    /// Carries out only the first `writes` of the next `BatchWriteItem`; the others come back as
    /// `UnprocessedItems`.
    pub fn process_only(&self, writes: usize) {
        self.service().batches.lock().unwrap_or_else(PoisonError::into_inner).push_back(writes);
    }
}

impl Service for DynamoDb {
    /// Such as `Query`.
    fn operation(request: &Parts) -> String {
        let target = request.headers.get(TARGET).and_then(|target| target.to_str().ok()).unwrap_or_default();
        target.strip_prefix(TARGET_PREFIX).unwrap_or(target).to_owned()
    }

    async fn answer(&self, call: &Call) -> Answer {
        let processed = match call.operation.as_str() {
            "BatchWriteItem" => self.batches.lock().unwrap_or_else(PoisonError::into_inner).pop_front(),
            _ => None,
        };
        if let Some(writes) = processed {
            return Answer::Whole(self.write_part_of(&call.json(), writes).await);
        }
        let mut request = http::Request::new(Full::from(call.body.clone()));
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = call.uri.clone();
        *request.headers_mut() = call.headers.clone();
        Answer::Whole(self.send(request).await)
    }
}

impl DynamoDb {
    fn start(storage: &Storage) -> io::Result<Self> {
        let database = match storage {
            Storage::Memory => Database::memory(),
            Storage::File(path) => {
                Database::new(path.to_str().ok_or_else(|| io::Error::other("its name is not UTF-8"))?)
            }
        };
        let database = database.map_err(io::Error::other)?;
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        // In its own thread, because the engine blocks its runtime while it works.
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("the listener is non-blocking");
                tokio::select! {
                    () = dynoxide::server::serve_on(listener, database) => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { address, batches: Mutex::default(), thread: Some((stop, thread)) })
    }

    async fn call(&self, operation: &str, body: &Value) -> (StatusCode, Value) {
        let mut request = http::Request::new(Full::from(body.to_string()));
        *request.method_mut() = Method::POST;
        *request.headers_mut() = headers(operation);
        let answer = self.send(request).await;
        let status = answer.status();
        let body = answer.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn send(&self, request: http::Request<Full<Bytes>>) -> Response {
        self.exchange(request)
            .await
            .unwrap_or_else(|error| response(StatusCode::BAD_GATEWAY, "text/plain", error.to_string()))
    }

    async fn exchange(
        &self,
        request: http::Request<Full<Bytes>>,
    ) -> Result<Response, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let answer = async move {
            let (parts, body) = sender.send_request(request).await?.into_parts();
            Ok(Response::from_parts(parts, body.collect().await?.to_bytes().into()))
        };
        // The connection ends with its sender, which also gets its errors.
        let (answer, _) = tokio::join!(answer, connection);
        answer
    }

    /// Carries out the first `writes` of a `BatchWriteItem`.
    async fn write_part_of(&self, batch: &Value, writes: usize) -> Response {
        let mut left = writes;
        let mut processed = Map::new();
        let mut unprocessed = Map::new();
        for (table, requests) in batch["RequestItems"].as_object().into_iter().flatten() {
            let requests = requests.as_array().map(Vec::as_slice).unwrap_or_default();
            let (first, others) = requests.split_at(left.min(requests.len()));
            left -= first.len();
            for (part, requests) in [(&mut processed, first), (&mut unprocessed, others)] {
                if !requests.is_empty() {
                    part.insert(table.clone(), requests.into());
                }
            }
        }
        if !processed.is_empty() {
            let (status, answer) = self.call("BatchWriteItem", &json!({"RequestItems": processed})).await;
            if !status.is_success() {
                return response(status, JSON, answer.to_string());
            }
        }
        response(StatusCode::OK, JSON, json!({"UnprocessedItems": unprocessed}).to_string())
    }
}

impl Drop for DynamoDb {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.thread.take() {
            // It fails only if the thread has ended.
            let _ = stop.send(());
            let _ = thread.join();
        }
    }
}

/// An error's name, without its namespace.
pub(crate) fn error_name(error: &Value) -> &str {
    let name = error["__type"].as_str().unwrap_or_default();
    name.rsplit('#').next().unwrap_or(name)
}

/// The error `name` as DynamoDB returns it (DynamoDB Developer Guide, "Error handling with
/// DynamoDB").
///
/// # Panics
/// If the name is not a known error.
pub fn error(name: &str) -> Behaviour {
    let (status, namespace, message) = match name {
        "ProvisionedThroughputExceededException" => (
            400,
            "com.amazonaws.dynamodb.v20120810",
            "The level of configured provisioned throughput for the table was exceeded. \
             Consider increasing your provisioning level with the UpdateTable API.",
        ),
        "ThrottlingException" => (
            400,
            "com.amazonaws.dynamodb.v20120810",
            "Throughput exceeds the current capacity of your table or index. \
             DynamoDB is automatically scaling your table or index so please try again shortly.",
        ),
        "TransactionInProgressException" => (
            400,
            "com.amazonaws.dynamodb.v20120810",
            "The transaction with the given request token is already in progress.",
        ),
        "RequestLimitExceeded" => (
            400,
            "com.amazonaws.dynamodb.v20120810",
            "Throughput exceeds the current throughput limit for your account.",
        ),
        "ResourceNotFoundException" => (400, "com.amazonaws.dynamodb.v20120810", "Requested resource not found"),
        "TransactionConflictException" => {
            (400, "com.amazonaws.dynamodb.v20120810", "Transaction is ongoing for the item")
        }
        "ItemCollectionSizeLimitExceededException" => {
            (400, "com.amazonaws.dynamodb.v20120810", "Collection size exceeded.")
        }
        "ValidationException" => {
            (400, "com.amazon.coral.validate", "The provided key element does not match the schema")
        }
        "AccessDeniedException" => (
            400,
            "com.amazon.coral.service",
            "User: arn:aws:sts::123456789012:assumed-role/local/local is not authorized to perform this action",
        ),
        "UnrecognizedClientException" => {
            (400, "com.amazon.coral.service", "The security token included in the request is invalid.")
        }
        "ExpiredTokenException" => {
            (400, "com.amazon.coral.service", "The security token included in the request is expired")
        }
        "InternalServerError" => (500, "com.amazonaws.dynamodb.v20120810", "Internal server error"),
        "ServiceUnavailableException" => {
            (503, "com.amazonaws.dynamodb.v20120810", "The service is unavailable. Please try again later.")
        }
        _ => panic!("{name} is not a known error"),
    };
    // Only this error spells the member with a capital letter.
    let text = if name == "AccessDeniedException" { "Message" } else { "message" };
    let body = json!({"__type": format!("{namespace}#{name}"), text: message});
    Behaviour::body(status, JSON, body.to_string()).with_header("x-amzn-requestid", "LOCAL")
}

/// The answer to a cancelled transaction, with a reason for each of its items, such as
/// `ConditionalCheckFailed`, `TransactionConflict` or `None`.
pub fn canceled(reasons: &[&str]) -> Behaviour {
    let body = json!({
        "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
        "CancellationReasons": reasons.iter().map(|reason| json!({"Code": reason})).collect::<Value>(),
        "Message": format!(
            "Transaction cancelled, please refer cancellation reasons for specific reasons [{}]",
            reasons.join(", ")
        ),
    });
    Behaviour::body(400, JSON, body.to_string())
}

/// The headers of a call. The engine requires a signature, but does not check it.
fn headers(operation: &str) -> HeaderMap {
    let target = HeaderValue::try_from(format!("{TARGET_PREFIX}{operation}")).expect("an operation is a legal value");
    let signature =
        "AWS4-HMAC-SHA256 Credential=local/20260101/us-east-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0";
    let mut headers = HeaderMap::new();
    headers.insert(TARGET, target);
    headers.insert(HOST, HeaderValue::from_static("localhost"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    headers.insert("x-amz-date", HeaderValue::from_static("20260101T000000Z"));
    headers.insert(AUTHORIZATION, HeaderValue::from_static(signature));
    headers
}

#[cfg(test)]
mod tests {
    use std::iter::repeat_n;

    use super::*;
    use crate::upstream::{every_call, operation};

    const TABLE: &str = HISTORY_TABLE;

    async fn engine() -> Engine {
        let engine = Engine::start(&Storage::Memory).expect("it starts");
        engine.create_history_table(TABLE).await.expect("it makes the table");
        engine
    }

    /// A call on a connection of its own, as the function would make it: status and body.
    async fn ask(engine: &Engine, operation: &str, body: Value) -> Result<(u16, Value), String> {
        let url = engine.url();
        let request_headers = headers(operation);
        let call = move || {
            let agent: ureq::Agent =
                ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().into();
            let mut request = http::Request::post(url);
            *request.headers_mut().expect("a request so far") = request_headers;
            let mut answer =
                agent.run(request.body(body.to_string()).expect("a request")).map_err(|error| error.to_string())?;
            let text = answer.body_mut().read_to_string().map_err(|error| error.to_string())?;
            Ok((answer.status().as_u16(), serde_json::from_str(&text).expect("JSON")))
        };
        tokio::task::spawn_blocking(call).await.expect("no panic")
    }

    fn key(sk: &str) -> Value {
        json!({"pk": {"S": "p"}, "sk": {"S": sk}})
    }

    /// A transaction that adds turn `turn` if the conversation has one turn fewer.
    fn append(turn: usize, token: &str) -> Value {
        let mut item = key(&format!("turn#{turn:010}"));
        item["text"] = json!({"S": "x"});
        let put = json!({"TableName": TABLE, "Item": item, "ConditionExpression": "attribute_not_exists(pk)"});
        let values = json!({":before": {"N": (turn - 1).to_string()}, ":after": {"N": turn.to_string()}});
        let condition = if turn == 1 { "attribute_not_exists(pk) OR turns = :before" } else { "turns = :before" };
        let update = json!({
            "TableName": TABLE,
            "Key": key("~conversation"),
            "UpdateExpression": "SET turns = :after",
            "ConditionExpression": condition,
            "ExpressionAttributeValues": values,
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        });
        json!({"TransactItems": [{"Put": put}, {"Update": update}], "ClientRequestToken": token})
    }

    fn delete(sk: &str) -> Value {
        json!({"DeleteRequest": {"Key": key(sk)}})
    }

    fn newest(limit: usize) -> Value {
        json!({
            "TableName": TABLE,
            "KeyConditionExpression": "pk = :pk",
            "ExpressionAttributeValues": {":pk": {"S": "p"}},
            "ScanIndexForward": false,
            "ConsistentRead": true,
            "Limit": limit,
        })
    }

    fn sort_keys(items: &Value) -> Vec<&str> {
        items.as_array().into_iter().flatten().filter_map(|item| item["sk"]["S"].as_str()).collect()
    }

    #[tokio::test]
    async fn transactions_are_whole_conditional_and_idempotent() {
        let engine = engine().await;
        for turn in 1..=3 {
            assert_eq!(
                ask(&engine, "TransactWriteItems", append(turn, &format!("token-{turn}"))).await,
                Ok((200, json!({})))
            );
        }
        assert_eq!(
            ask(&engine, "TransactWriteItems", append(3, "token-3")).await,
            Ok((200, json!({}))),
            "the same token"
        );
        let (status, mismatch) = ask(&engine, "TransactWriteItems", append(4, "token-3")).await.expect("it answers");
        assert_eq!((status, error_name(&mismatch)), (400, "IdempotentParameterMismatchException"));

        let (status, canceled) = ask(&engine, "TransactWriteItems", append(3, "another")).await.expect("it answers");
        assert_eq!((status, error_name(&canceled)), (400, "TransactionCanceledException"));
        let reasons = &canceled["CancellationReasons"];
        assert_eq!(
            (&reasons[0]["Code"], &reasons[1]["Code"]),
            (&json!("ConditionalCheckFailed"), &json!("ConditionalCheckFailed"))
        );
        assert_eq!(reasons[1]["Item"]["turns"], json!({"N": "3"}));
        let (_, canceled) = ask(&engine, "TransactWriteItems", append(5, "another")).await.expect("it answers");
        let reasons = &canceled["CancellationReasons"];
        assert_eq!((&reasons[0]["Code"], &reasons[1]["Code"]), (&json!("None"), &json!("ConditionalCheckFailed")));

        let (_, page) = ask(&engine, "Query", newest(3)).await.expect("it answers");
        assert_eq!(sort_keys(&page["Items"]), ["~conversation", "turn#0000000003", "turn#0000000002"]);
        assert_eq!(page["LastEvaluatedKey"], key("turn#0000000002"));
        assert_eq!(sort_keys(&engine.items(TABLE).await.into()).len(), 4);
    }

    #[tokio::test]
    async fn the_unprocessed_rest_of_a_batch_comes_back() {
        let engine = engine().await;
        for turn in 1..=3 {
            let written = ask(&engine, "TransactWriteItems", append(turn, &format!("token-{turn}"))).await;
            assert_eq!(written, Ok((200, json!({}))));
        }
        let batch = |keys: &[&str]| json!({TABLE: keys.iter().map(|sk| delete(sk)).collect::<Value>()});
        let keys = ["turn#0000000001", "turn#0000000002", "turn#0000000003"];
        let rows = [(0, 0), (1, 1), (5, 3)];
        for (processed, deleted) in rows {
            engine.process_only(processed);
            let (_, answer) =
                ask(&engine, "BatchWriteItem", json!({"RequestItems": batch(&keys)})).await.expect("it answers");
            let expected = if deleted == keys.len() { json!({}) } else { batch(&keys[deleted..]) };
            assert_eq!(answer["UnprocessedItems"], expected, "{processed}");
            assert_eq!(engine.items(TABLE).await.len(), 1 + keys.len() - deleted);
        }
    }

    #[tokio::test]
    async fn the_engine_fails_and_loses_answers_as_scripted() {
        let engine = engine().await;
        engine.script(operation("TransactWriteItems"), [error("InternalServerError"), Behaviour::Lose]);
        engine.script(operation("TransactWriteItems"), [canceled(&["TransactionConflict", "None"])]);
        engine.script(operation("Query"), repeat_n(error("ProvisionedThroughputExceededException"), 2));
        let (status, failure) = ask(&engine, "TransactWriteItems", append(1, "token-1")).await.expect("it answers");
        assert_eq!((status, error_name(&failure)), (500, "InternalServerError"));
        assert_eq!(engine.items(TABLE).await, [] as [Value; 0]);
        ask(&engine, "TransactWriteItems", append(1, "token-1")).await.expect_err("the answer is lost");
        assert_eq!(engine.items(TABLE).await.len(), 2);
        let (_, failure) = ask(&engine, "TransactWriteItems", append(2, "token-2")).await.expect("it answers");
        assert_eq!(failure["CancellationReasons"][0]["Code"], "TransactionConflict");
        for expected in [400, 400, 200] {
            assert_eq!(ask(&engine, "Query", newest(1)).await.expect("it answers").0, expected);
        }
        let operations = [["TransactWriteItems"; 3], ["Query"; 3]].concat();
        assert_eq!(engine.operations(), operations);
        assert_eq!(engine.calls()[5].json(), newest(1));
    }

    #[tokio::test]
    async fn every_error_has_a_name_and_a_status() {
        let engine = engine().await;
        let rows = [
            ("ProvisionedThroughputExceededException", 400),
            ("ThrottlingException", 400),
            ("RequestLimitExceeded", 400),
            ("TransactionInProgressException", 400),
            ("ResourceNotFoundException", 400),
            ("AccessDeniedException", 400),
            ("UnrecognizedClientException", 400),
            ("ExpiredTokenException", 400),
            ("TransactionConflictException", 400),
            ("ItemCollectionSizeLimitExceededException", 400),
            ("ValidationException", 400),
            ("InternalServerError", 500),
            ("ServiceUnavailableException", 503),
        ];
        for (name, status) in rows {
            engine.script(every_call, [error(name)]);
            let (answered, body) = ask(&engine, "Query", newest(1)).await.expect("it answers");
            assert_eq!((answered, error_name(&body)), (status, name));
        }
    }

    #[tokio::test]
    async fn data_outlives_a_stop_and_in_a_file_even_the_engine() {
        let file = std::env::temp_dir().join(format!("{}.db", uuid::Uuid::new_v4()));
        let storage = Storage::File(file.clone());
        for turn in 1..=3 {
            let engine = Engine::start(&storage).expect("it starts");
            engine.create_history_table(TABLE).await.expect("the table exists or can be created");
            assert_eq!(ask(&engine, "TransactWriteItems", append(turn, "token")).await.expect("it answers").0, 200);
            engine.stop().await.expect("it stops");
            ask(&engine, "Query", newest(1)).await.expect_err("nothing listens");
            engine.restart().expect("it starts again");
            let (_, page) = ask(&engine, "Query", newest(1)).await.expect("it answers");
            assert_eq!(page["Items"][0]["turns"], json!({"N": turn.to_string()}));
        }
        assert!(Engine::start(&Storage::File("/".into())).is_err());
        std::fs::remove_file(file).expect("the file exists");
    }
}
