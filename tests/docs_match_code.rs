//! What the documentation and `.env.example` say, compared with the code: the least policy, which
//! `.aws` has too, the variables with their defaults, the codes of the errors, and the members of
//! the log's lines.

use std::collections::{BTreeMap, BTreeSet};

use kus_aws_backend::router::ROUTES;
use local_stack::engine::{HISTORY_TABLE, INDEX};
use local_stack::secret_store::SecretStore;
use local_stack::upstream::Call;
use serde_json::{Value, json};

use crate::support::client::{
    by, chat_event, delete, patch_event, path_of, read as read_conversation, say, send, stack,
};
use crate::support::in_process::{configure, event};
use crate::support::log_line;
use crate::support::pages::{code, page, read, rows, section};
use crate::support::source::{codes_of_the_source, quoted_after, variables_read};
use crate::support::template::{properties, template};

/// The actions that a role needs for `call`. A transaction needs those of its members
/// (DynamoDB Developer Guide, "Using IAM with DynamoDB transactions"), every other operation the
/// one of its name (Service Authorization Reference, "Actions, resources, and condition keys for
/// Amazon DynamoDB").
fn actions(call: &Call) -> Vec<String> {
    if call.operation != "TransactWriteItems" {
        return vec![format!("dynamodb:{}", call.operation)];
    }
    let writes = call.json()["TransactItems"].as_array().cloned().expect("a transaction has items");
    let members = writes.iter().flat_map(|write| write.as_object().expect("an item").keys());
    let action = |member: &String| match member.as_str() {
        "ConditionCheck" => "dynamodb:ConditionCheckItem".to_owned(),
        member => format!("dynamodb:{member}Item"),
    };
    members.map(action).collect()
}

/// The tables that `call` names.
fn tables(call: &Call) -> Vec<String> {
    let body = call.json();
    let transaction = body["TransactItems"].as_array().into_iter().flatten().flat_map(|write| {
        write.as_object().expect("an item").values().map(|write| write["TableName"].clone()).collect::<Vec<_>>()
    });
    let batch = body["RequestItems"].as_object().into_iter().flat_map(|batch| batch.keys().map(|table| json!(table)));
    let named = body.get("TableName").cloned().into_iter().chain(transaction).chain(batch);
    named.map(|table| table.as_str().expect("a table's name").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policies_allow_what_the_function_does_and_nothing_else() {
    const PARAMETER: &str = "arn:aws:ssm:eu-west-1:123456789012:parameter/kus-aws-backend/openai";
    let store = SecretStore::start().expect("the store starts");
    store.put(PARAMETER, "a-key");
    let limits = [("DAILY_TOKEN_LIMIT", "1000000"), ("DAILY_TOKEN_LIMIT_TOTAL", "1000000")];
    let key = [("OPENAI_API_KEY", PARAMETER), ("AWS_ENDPOINT_URL_SSM", &store.url())];
    let stack = stack(&[limits, key].concat()).await;
    let begun = say(&stack, None, "Hello").await;
    let id = begun["conversation_id"].as_str().expect("an id");
    let key = [("idempotency-key", "7c9e6679-7425-40de-944b-e07fc1f90ae7")];
    let follow_up = chat_event(&json!({"message": "And?", "conversation_id": id}), &key);
    assert_eq!(send(&stack, &follow_up).await.body["turn"], 2);
    let newest = read_conversation(&stack, id, "limit=1").await;
    let cursor = newest.body["next_cursor"].as_str().expect("a cursor");
    assert_eq!(read_conversation(&stack, id, &format!("cursor={cursor}")).await.body["messages"][0]["turn"], 1);
    assert_eq!(send(&stack, &patch_event(&path_of(id), &json!({"title": "About Ada"}))).await.status, 200);
    assert_eq!(delete(&stack, id).await.status, 204);
    assert_eq!(send(&stack, &by(chat_event(&json!({"message": "Hello"}), &[]), "ada")).await.status, 200);
    for method in ["GET", "DELETE"] {
        assert_eq!(send(&stack, &by(event(method, "/api/v1/conversations", &[]), "ada")).await.status, 200);
    }

    let calls = stack.engine().calls();
    let (of_index, of_table): (Vec<_>, Vec<_>) = calls.iter().partition(|call| call.json().get("IndexName").is_some());
    let needed = [of_table, of_index.clone()].map(|calls| calls.into_iter().flat_map(actions).collect::<BTreeSet<_>>());
    assert!(of_index.iter().all(|call| call.json()["IndexName"] == INDEX));
    let named: BTreeSet<String> = calls.iter().flat_map(tables).collect();
    assert_eq!(named, BTreeSet::from([HISTORY_TABLE.to_owned()]));
    let reads: BTreeSet<String> = store.operations().iter().map(|operation| format!("ssm:{operation}")).collect();

    let text = page("configuration");
    let blocks = text.split("```json\n").skip(1).filter_map(|rest| rest.split("```").next());
    let mut policies = blocks.filter_map(|block| serde_json::from_str::<Value>(block).ok());
    let documented = policies.find(|block| block["Statement"].is_array()).expect("the page has a policy");
    let table = format!("arn:aws:dynamodb:REGION:ACCOUNT:table/{HISTORY_TABLE}");
    let index = format!("{table}/index/{INDEX}");
    let parameter = PARAMETER.replace("eu-west-1:123456789012", "REGION:ACCOUNT");
    let [for_the_table, for_the_index] = needed;
    let expected = [(&for_the_table, json!(table)), (&for_the_index, json!(index)), (&reads, json!(parameter))];
    assert_eq!(allowed(&documented), expected.map(|(actions, resource)| (actions.clone(), resource)));

    let to_paste: Value = serde_json::from_str(&read(".aws/policy.json")).expect("it is JSON");
    assert_eq!(to_paste, documented);

    let deployed = &properties(&template(), "Role")["Policies"][1]["PolicyDocument"];
    let table = "arn:${AWS::Partition}:dynamodb:${AWS::Region}:${AWS::AccountId}:table/${TableName}";
    let index = format!("{table}/index/{INDEX}");
    assert_eq!(
        allowed(deployed),
        [(for_the_table, json!({"Fn::Sub": table})), (for_the_index, json!({"Fn::Sub": index}))]
    );
}

/// The actions that each statement of a policy allows, and on what.
fn allowed(policy: &Value) -> Vec<(BTreeSet<String>, Value)> {
    assert_eq!(policy["Version"], "2012-10-17");
    let statements = policy["Statement"].as_array().expect("statements").iter();
    let allowed = statements.map(|statement| {
        assert_eq!(statement["Effect"], "Allow", "{statement}");
        let actions = statement["Action"].as_array().expect("actions").iter();
        let actions = actions.map(|action| action.as_str().expect("an action").to_owned()).collect();
        (actions, statement["Resource"].clone())
    });
    allowed.collect()
}

/// The documented variables with their defaults; an empty text if there is no default.
fn documented() -> BTreeMap<String, String> {
    let rows = rows(&section(&page("configuration"), "# Configuration"));
    let variable = |cells: &Vec<String>| {
        let [name] = code(&cells[0])[..] else { panic!("a row of one variable: {cells:?}") };
        (name.to_owned(), code(&cells[1]).first().copied().unwrap_or_default().to_owned())
    };
    rows.iter().map(variable).collect()
}

/// The variables of `.env.example` with their values.
fn exemplified() -> BTreeMap<String, String> {
    let example = read(".env.example");
    let variables = dotenvy::from_read_iter(example.as_bytes());
    variables.map(|variable| variable.expect("a line of .env.example can be read")).collect()
}

#[test]
fn the_documentation_and_the_example_name_the_variables_that_are_read() {
    let mut read = variables_read();
    // The local stack's own.
    read.insert("PORT".to_owned());
    assert_eq!(documented().into_keys().collect::<BTreeSet<_>>(), read);
    assert_eq!(exemplified().into_keys().collect::<BTreeSet<_>>(), read);
    // Lambda sets this one, not the operator.
    let platform = quoted_after(&self::read("src/config.rs"), "var_os(");
    assert_eq!(platform, BTreeSet::from(["AWS_LAMBDA_RUNTIME_API".to_owned()]));
}

#[test]
fn the_defaults_of_the_documentation_and_the_example_are_those_of_the_code() {
    // Without these no default can be seen.
    let needed = [
        ("OPENAI_API_KEY", "key"),
        ("HISTORY_TABLE", "chat-history"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ];
    let configured = |mut variables: BTreeMap<String, String>| {
        variables.extend(needed.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let variables: Vec<_> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        format!("{:?}", configure(&variables).expect("the values can be used"))
    };
    assert_eq!(configured(documented()), configured(BTreeMap::new()));
    assert_eq!(configured(exemplified()), configured(BTreeMap::new()));
    // The example must work unchanged, so it has no address and no key of a model.
    for name in ["OPENAI_API_KEY", "OPENAI_BASE_URL", "AWS_ENDPOINT_URL_DYNAMODB", "AWS_ENDPOINT_URL"] {
        assert_eq!(exemplified()[name], "", "{name}");
    }
}

#[test]
fn every_variable_of_the_example_has_a_comment_of_one_line() {
    let example = read(".env.example");
    let lines: Vec<&str> = example.lines().collect();
    for (index, line) in lines.iter().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        assert!(lines[index - 1].starts_with("# ") && !lines[index - 2].starts_with('#'), "{line}");
    }
}

#[test]
fn the_documentation_names_every_code_with_its_status() {
    let documented: BTreeSet<_> = rows(&section(&page("api"), "Errors"))
        .iter()
        .filter_map(|cells| {
            let status = cells[0].split_whitespace().next()?.parse::<u16>().ok()?;
            Some((status, code(&cells[0]).first()?.to_owned().to_owned()))
        })
        .collect();
    assert_eq!(documented, codes_of_the_source());
}

#[test]
fn the_documentation_names_every_member_of_a_line_of_the_log_and_every_metric_with_its_unit() {
    let section = section(&page("operate"), "Logs and metrics");
    let rows = rows(&section);
    let rows: Vec<_> = rows.iter().filter(|cells| cells.len() == 3).collect();
    let documented: BTreeSet<&str> = rows.iter().flat_map(|cells| code(&cells[0])).collect();
    let members: BTreeSet<&str> =
        log_line::SCHEMA["properties"].as_object().expect("members").keys().map(String::as_str).collect();
    assert_eq!(documented, members);

    let example = section.split("```json\n").nth(1).and_then(|rest| rest.split('\n').next()).expect("an example");
    let directive = log_line::checked(example)["_aws"]["CloudWatchMetrics"][0].take();
    let metrics: BTreeSet<_> = directive["Metrics"]
        .as_array()
        .expect("metrics")
        .iter()
        .map(|metric| (metric["Name"].as_str().expect("a name"), metric["Unit"].as_str().expect("a unit")))
        .collect();
    let documented: BTreeSet<_> =
        rows.iter().filter(|cells| !cells[1].is_empty()).map(|cells| (code(&cells[0])[0], cells[1].as_str())).collect();
    assert_eq!(documented, metrics);
}

#[test]
fn the_schema_of_the_log_has_every_route_and_the_documentation_counts_the_metrics() {
    let named: BTreeSet<&str> = log_line::SCHEMA["properties"]["Route"]["enum"]
        .as_array()
        .expect("routes")
        .iter()
        .map(|route| route.as_str().expect("text"))
        .collect();
    let paths = ROUTES.iter().map(|entry| entry.path);
    assert_eq!(named, paths.chain(["preflight", "unmatched", "unsupported"]).collect());

    // A route that calls nothing has no time of the model or the table, and no tokens.
    let metrics = |route: &&str| match *route {
        "/api/v1/chat" => 7,
        route if route.starts_with("/api/v1/conversations") => 5,
        _ => 4,
    };
    let of_all_requests = 7;
    let count = of_all_requests + named.iter().map(metrics).sum::<usize>();
    let expected = format!("at most {count} custom metrics");
    assert!(page("operate").contains(&expected), "the page on operation has no {expected:?}");
}
