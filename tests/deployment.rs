//! What `.aws` says, compared with the code: the template's role, table and variables, the metrics
//! of the dashboard, the members that the queries ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use kus_aws_backend::router::ROUTES;
use local_stack::Backends;
use local_stack::engine::{self, HISTORY_TABLE};
use local_stack::environment::Outcome;
use local_stack::upstream::operation;
use serde_json::{Value, json};

use crate::support::client::{begin, by, chat_event, say, send, share, stack};
use crate::support::in_process::{configure, event};
use crate::support::pages::{page, read};
use crate::support::source::variables_read;
use crate::support::template::{properties, template};

/// What `value` becomes without parameters.
fn by_default(template: &Value, value: &Value) -> Value {
    if let Some(parameter) = value["Ref"].as_str() {
        return template["Parameters"][parameter]["Default"].clone();
    }
    match value["Fn::If"].as_array().map(Vec::as_slice) {
        // Each condition checks whether something was requested.
        Some([_, _, otherwise]) => by_default(template, otherwise),
        _ => value.clone(),
    }
}

#[test]
fn the_role_permits_only_the_table_and_its_own_log() {
    let role = properties(&template(), "Role");
    let policies = role["Policies"].as_array().expect("policies");
    let [log, history, key] = policies.as_slice() else { panic!("{role}") };
    assert_eq!((&log["PolicyName"], &history["PolicyName"]), (&json!("log"), &json!("history")));
    assert!(by_default(&template(), key).is_null(), "{key}");
    assert_eq!(
        log["PolicyDocument"]["Statement"],
        json!([{
            "Effect": "Allow",
            "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
            "Resource": {"Fn::GetAtt": "LogGroup.Arn"},
        }])
    );
    assert!(role.get("ManagedPolicyArns").is_none());
    let function = properties(&template(), "Function");
    assert_eq!(function["LoggingConfig"]["LogGroup"], json!({"Ref": "LogGroup"}));
}

/// What `value` becomes with these parameters ("Intrinsic function reference" of AWS `CloudFormation`).
fn resolved(template: &Value, value: &Value, parameters: &BTreeMap<&str, &str>) -> Value {
    let resolve = |value: &Value| resolved(template, value, parameters);
    let text = |value: &Value| resolve(value).as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned();
    let parameter = |name: &str| match name {
        "AWS::NoValue" => Value::Null,
        "AWS::Partition" => json!("aws"),
        "AWS::Region" => json!("us-east-1"),
        "AWS::AccountId" => json!("123456789012"),
        name => {
            parameters.get(name).map_or_else(|| template["Parameters"][name]["Default"].clone(), |value| json!(value))
        }
    };
    match value {
        Value::Array(items) => items.iter().map(resolve).filter(|item| !item.is_null()).collect(),
        Value::Object(members) if members.len() == 1 => {
            let (function, argument) = members.iter().next().expect("one");
            let item = |index: usize| &argument[index];
            match function.as_str() {
                "Ref" => parameter(argument.as_str().expect("a name")),
                "Fn::Sub" => {
                    let mut parts = argument.as_str().expect("a text").split("${");
                    let first = parts.next().unwrap_or_default().to_owned();
                    let rest = parts.filter_map(|part| part.split_once('}'));
                    json!(rest.fold(first, |told, (name, rest)| {
                        format!("{told}{}{rest}", parameter(name).as_str().expect("a text"))
                    }))
                }
                "Fn::Join" => {
                    let parts: Vec<_> = item(1).as_array().expect("parts").iter().map(text).collect();
                    json!(parts.join(&text(item(0))))
                }
                "Fn::Split" => text(item(1)).split(&text(item(0))).collect(),
                "Fn::Select" => {
                    let index = usize::try_from(item(0).as_u64().expect("an index")).expect("it fits");
                    resolve(item(1)).get(index).unwrap_or_else(|| panic!("nothing at {index}")).clone()
                }
                // CloudFormation may look at both, so both have to be possible.
                "Fn::If" => {
                    let [yes, no] = [1, 2].map(|index| resolve(item(index)));
                    let condition = &template["Conditions"][text(item(0))];
                    if resolve(condition) == true { yes } else { no }
                }
                "Fn::Condition" => resolve(&template["Conditions"][text(argument)]),
                "Fn::Equals" => json!(resolve(item(0)) == resolve(item(1))),
                "Fn::Not" => json!(resolve(item(0)) == false),
                "Fn::Or" => json!(argument.as_array().expect("conditions").iter().any(|item| resolve(item) == true)),
                _ => Value::Object(members.iter().map(|(name, value)| (name.clone(), resolve(value))).collect()),
            }
        }
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), resolve(value))).collect(),
        other => other.clone(),
    }
}

#[test]
fn the_function_knows_where_the_key_is_and_its_role_can_read_only_that() {
    let parameter = "arn:aws:ssm:eu-west-1:123456789012:parameter/team/openai";
    let secret = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:openai-AbCdEf";
    let (member, version) = (format!("{secret}:API_KEY::"), format!("{secret}:::1-2"));
    let named = "arn:aws:secretsmanager:us-east-1:123456789012:secret:team/openai";
    let kms = "arn:aws:kms:eu-west-1:123456789012:key/1-2";
    let nothing = |arn: &str| json!([arn, format!("{arn}:")]);
    let rows = [
        (vec![("OpenAiKeyArn", parameter)], parameter, nothing(parameter)),
        (vec![("OpenAiKeyArn", parameter), ("OpenAiKeyKmsArn", kms)], parameter, nothing(parameter)),
        (vec![("OpenAiKeyArn", secret), ("OpenAiSecret", "other")], secret, json!([secret, secret])),
        (vec![("OpenAiKeyArn", &member)], &member, json!([member, secret])),
        (vec![("OpenAiKeyArn", &version)], &version, json!([version, secret])),
        (vec![("OpenAiSecret", "team/openai")], named, json!(format!("{named}-??????"))),
    ];
    let template = template();
    let key = properties(&template, "Role")["Policies"][2].clone();
    let variable = properties(&template, "Function")["Environment"]["Variables"]["OPENAI_API_KEY"].clone();
    for (given, told, resources) in rows {
        let given: BTreeMap<&str, &str> = given.into_iter().collect();
        assert_eq!(resolved(&template, &variable, &given), told);
        let config = configure(&[("OPENAI_API_KEY", told), ("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")]);
        assert!(config.expect("it can be used").openai.is_ok(), "the function knows what {told} is");
        let policy = resolved(&template, &key, &given);
        let mut expected = vec![json!({
            "Effect": "Allow",
            "Action": ["secretsmanager:GetSecretValue", "ssm:GetParameter"],
            "Resource": resources,
        })];
        if given.contains_key("OpenAiKeyKmsArn") {
            expected.push(json!({"Effect": "Allow", "Action": "kms:Decrypt", "Resource": kms}));
        }
        assert_eq!(policy["PolicyDocument"]["Statement"], json!(expected), "{given:?}");
    }
    let plain = BTreeMap::from([("OpenAiApiKey", "a-key")]);
    assert_eq!(resolved(&template, &variable, &plain), "a-key");
    assert!(resolved(&template, &key, &plain).is_null());
}

#[test]
fn the_template_sets_variables_that_are_read_to_the_defaults_of_the_code() {
    let template = template();
    let function = properties(&template, "Function");
    let variables = function["Environment"]["Variables"].as_object().expect("variables");
    let names: BTreeSet<String> = variables.keys().cloned().collect();
    assert!(names.is_subset(&variables_read()), "{names:?}");
    assert_eq!(by_default(&template, &variables["HISTORY_TABLE"]), HISTORY_TABLE);

    // Without these no default can be seen. Lambda sets them.
    let platform = [
        ("HISTORY_TABLE", HISTORY_TABLE),
        ("OPENAI_API_KEY", "key"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ];
    let configured = |variables: &[(&str, &str)]| format!("{:?}", configure(variables).expect("they can be used"));
    let values: Vec<(&str, String)> = variables
        .iter()
        .filter_map(|(name, value)| match by_default(&template, value) {
            // `AWS::NoValue`: the variable is not set.
            Value::Null => None,
            Value::String(text) => Some((name.as_str(), text)),
            number => Some((name.as_str(), number.to_string())),
        })
        .collect();
    // Off in the code, which works without a table, and on in the template, which anybody may call.
    let is_limit = |name: &str| name.starts_with("DAILY_TOKEN_LIMIT");
    let given = values.iter().map(|(name, value)| (*name, value.as_str()));
    let (limits, given): (Vec<_>, Vec<_>) =
        given.filter(|(_, value)| !value.is_empty()).partition(|(name, _)| is_limit(name));
    let given: Vec<_> = platform.into_iter().chain(given).collect();
    assert!(given.len() > platform.len(), "{given:?}");
    assert_eq!(configured(&given), configured(&platform));
    assert_eq!(limits, [("DAILY_TOKEN_LIMIT", "100000"), ("DAILY_TOKEN_LIMIT_TOTAL", "2000000")]);
    let limited: Vec<_> = platform.into_iter().chain(limits).collect();
    assert_ne!(configured(&limited), configured(&platform));
}

/// The default of a parameter, as a number.
fn default_of(template: &Value, parameter: &str) -> i64 {
    template["Parameters"][parameter]["Default"].as_i64().unwrap_or_else(|| panic!("{parameter} has a number"))
}

#[test]
fn chats_have_a_route_of_their_own_with_a_lower_throttle_than_the_rest() {
    let template = template();
    let stage = properties(&template, "Stage");
    let chat = properties(&template, "ChatRoute");
    let key = chat["RouteKey"].as_str().expect("a key");
    // API Gateway refuses settings for a route that does not exist.
    assert_eq!(template["Resources"]["Stage"]["DependsOn"], "ChatRoute");
    assert_eq!(
        stage["RouteSettings"],
        json!({key: {
            "ThrottlingRateLimit": {"Ref": "ChatThrottleRate"},
            "ThrottlingBurstLimit": {"Ref": "ChatThrottleBurst"},
        }})
    );
    assert_eq!(
        stage["DefaultRouteSettings"],
        json!({"ThrottlingRateLimit": {"Ref": "ThrottleRate"}, "ThrottlingBurstLimit": {"Ref": "ThrottleBurst"}})
    );
    let default = |name| default_of(&template, name);
    assert!(default("ChatThrottleRate") > 0 && default("ChatThrottleRate") < default("ThrottleRate"));
    assert!(default("ChatThrottleBurst") < default("ThrottleBurst"));
    let rest = properties(&template, "DefaultRoute");
    for member in ["ApiId", "Target", "AuthorizationType", "AuthorizerId"] {
        assert_eq!(chat[member], rest[member], "{member}");
    }
}

/// Otherwise another spelling of the path that the function accepts would get the throttle of the other routes.
#[test]
fn every_request_that_is_a_chat_takes_the_route_with_the_throttle_and_nothing_else_does() {
    let chat = properties(&template(), "ChatRoute");
    let (method, path) = chat["RouteKey"].as_str().and_then(|key| key.split_once(' ')).expect("a method and a path");
    assert_eq!(path, "/{proxy+}", "any path but the empty one");
    let entries = ROUTES.iter().filter(|entry| entry.methods.contains(&method));
    assert_eq!(entries.map(|entry| entry.path).collect::<Vec<_>>(), ["/api/v1/chat"]);
}

#[test]
fn the_budget_is_created_only_with_an_amount_and_an_address() {
    let template = template();
    assert_eq!(default_of(&template, "MonthlyBudget"), 0);
    let asked_for = json!({"Fn::Not": [{"Fn::Equals": [{"Ref": "MonthlyBudget"}, "0"]}]});
    assert_eq!(
        condition(&template, "/Resources/Budget"),
        &json!({"Fn::And": [{"Fn::Condition": "SendsMail"}, asked_for]})
    );
    let rule = &template["Rules"]["MailOfBudget"];
    assert_eq!(rule["RuleCondition"], asked_for);
    assert_eq!(rule["Assertions"][0]["Assert"], json!({"Fn::Not": [{"Fn::Equals": [{"Ref": "AlarmEmail"}, ""]}]}));
    let budget = properties(&template, "Budget");
    assert_eq!(budget["Budget"]["BudgetLimit"], json!({"Amount": {"Ref": "MonthlyBudget"}, "Unit": "USD"}));
    // Another AlarmEmail replaces the budget, and two cannot have one name.
    assert!(budget["Budget"].get("BudgetName").is_none());
    let notifications = budget["NotificationsWithSubscribers"].as_array().expect("notifications");
    assert_eq!(notifications.len(), 3);
    for notification in notifications {
        let mail = json!([{"SubscriptionType": "EMAIL", "Address": {"Ref": "AlarmEmail"}}]);
        assert_eq!(notification["Subscribers"], mail);
    }
}

#[test]
fn the_function_reserves_concurrency_unless_the_account_has_too_little() {
    let template = template();
    let reserved = default_of(&template, "ReservedConcurrency");
    assert!(reserved > 0);
    assert!(read(".aws/deploy").contains(&format!("\nreadonly RESERVED={reserved}\n")));
}

#[test]
fn the_page_on_costs_names_each_limit_with_its_default() {
    let template = template();
    let page = read(".aws/README.md");
    let limits = [
        &["DailyTokenLimit"][..],
        &["DailyTokenLimitTotal"],
        &["ChatThrottleRate", "ChatThrottleBurst"],
        &["ThrottleRate", "ThrottleBurst"],
        &["ReservedConcurrency"],
        &["MonthlyBudget"],
    ];
    for names in limits {
        let defaults: Vec<String> = names.iter().map(|name| default_of(&template, name).to_string()).collect();
        let row = format!("| `{}` | {}", names.join("`, `"), defaults.join(", "));
        assert!(page.contains(&row), "{row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_function_uses_the_table_of_the_template() {
    let template = template();
    let mut table = properties(&template, "Table");
    assert_eq!(table["TableName"], properties(&template, "Function")["Environment"]["Variables"]["HISTORY_TABLE"]);
    assert_eq!(table["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"], true);
    table["TableName"] = json!("of-the-template");
    let table = table.as_object_mut().expect("properties");
    let expiry = table.remove("TimeToLiveSpecification").expect("the table forgets");
    // The engine does not know it.
    table.remove("PointInTimeRecoverySpecification");

    let backends = Backends::start().await;
    let engine = backends.engine.clone().expect("an engine");
    engine.call("CreateTable", json!(table)).await.expect("the engine makes the table");
    let stack = share(&backends, &[("HISTORY_TABLE", "of-the-template")]).await;
    begin(&stack, &["My name is Ada.", "What is my name?"]).await;

    let items = engine.items("of-the-template").await;
    assert_eq!(items.len(), 3, "{items:?}");
    let list = send(&stack, &by(event("GET", "/api/v1/conversations", &[]), "ada")).await;
    assert_eq!((list.status, list.body), (200, json!({"conversations": []})));
    let expires_at = expiry["AttributeName"].as_str().expect("an attribute's name");
    for item in &items {
        let seconds = item[expires_at]["N"].as_str().expect("a number of seconds");
        assert!(seconds.parse::<u64>().is_ok(), "{item}");
    }
}

#[test]
fn the_template_and_the_guide_agree_on_the_function() {
    let template = template();
    let function = properties(&template, "Function");
    assert_eq!(by_default(&template, &function["Timeout"]), 30);
    assert_eq!(properties(&template, "Integration")["TimeoutInMillis"], 30_000);
    let guide = page("deploy");
    assert!(guide.contains("a timeout of 30 seconds"));
    assert_eq!(function["Runtime"], "provided.al2023");
    assert!(guide.contains("`provided.al2023`"));
    assert_eq!(by_default(&template, &function["Architectures"][0]), "x86_64");
    assert!(read("build.sh").contains("lambda_architecture=x86_64\n"));
}

/// API Gateway would answer preflights that its own configuration allows, and reject the others.
#[test]
fn the_api_leaves_cors_to_the_function_and_lets_preflights_through() {
    let template = template();
    assert!(properties(&template, "Api").get("CorsConfiguration").is_none());
    assert_eq!(properties(&template, "Integration")["PayloadFormatVersion"], "2.0");
    let route = |name: &str| properties(&template, name);
    let authorized = |name: &str| route(name).get("AuthorizationType").is_some();
    assert!(authorized("DefaultRoute"));
    assert_eq!(route("PreflightRoute")["RouteKey"], "OPTIONS /{proxy+}");
    assert_eq!(route("HealthRoute")["RouteKey"], "ANY /health");
    assert_eq!(route("HomeRoute")["RouteKey"], "ANY /");
    assert!(!authorized("PreflightRoute") && !authorized("HealthRoute") && !authorized("HomeRoute"));
}

/// The condition of the template's resource or output at this pointer.
fn condition<'a>(template: &'a Value, pointer: &str) -> &'a Value {
    let conditional = template.pointer(pointer).unwrap_or_else(|| panic!("the template has no {pointer}"));
    &template["Conditions"][conditional["Condition"].as_str().expect("a condition")]
}

#[test]
fn the_function_url_is_there_when_asked_for_and_streams_from_the_live_version() {
    let template = template();
    let parameter = &template["Parameters"]["FunctionUrl"];
    assert_eq!(parameter["AllowedValues"], json!(["off", "NONE", "AWS_IAM"]));
    assert_eq!(parameter["Default"], "off");

    let url = properties(&template, "Url");
    assert_eq!(url["TargetFunctionArn"], json!({"Ref": "Function"}));
    assert_eq!(url["Qualifier"], properties(&template, "Live")["Name"]);
    assert_eq!((&url["AuthType"], &url["InvokeMode"]), (&json!({"Ref": "FunctionUrl"}), &json!("RESPONSE_STREAM")));
    // Lambda would answer the preflights itself and add headers to the function's.
    assert!(url.get("Cors").is_none());
    assert_eq!(template["Outputs"]["FunctionUrl"]["Value"], json!({"Fn::GetAtt": "Url.FunctionUrl"}));

    let asked_for = json!({"Fn::Not": [{"Fn::Equals": [{"Ref": "FunctionUrl"}, "off"]}]});
    for resource in ["Url", "UrlPermission", "UrlInvokePermission", "UrlServerErrorsAlarm"] {
        assert_eq!(condition(&template, &format!("/Resources/{resource}")), &asked_for, "{resource}");
    }
    assert_eq!(condition(&template, "/Outputs/FunctionUrl"), &asked_for);
    let mode = &properties(&template, "Function")["Environment"]["Variables"]["FUNCTION_URL_INVOKE_MODE"];
    assert_eq!(mode, &json!({"Fn::If": ["HasFunctionUrl", url["InvokeMode"], {"Ref": "AWS::NoValue"}]}));
    assert_eq!(template["Conditions"]["HasFunctionUrl"], asked_for);
    configure(&[("FUNCTION_URL_INVOKE_MODE", "RESPONSE_STREAM")]).expect("the function knows the mode");
}

/// Since October 2025 a call needs both permissions (Lambda Developer Guide, "Control access to
/// Lambda function URLs").
#[test]
fn the_live_version_is_public_only_through_the_function_url() {
    let template = template();
    let [url, invoke] = ["UrlPermission", "UrlInvokePermission"].map(|name| properties(&template, name));
    assert_eq!(
        (&url["Action"], &invoke["Action"]),
        (&json!("lambda:InvokeFunctionUrl"), &json!("lambda:InvokeFunction"))
    );
    assert_eq!(url["FunctionUrlAuthType"], json!({"Ref": "FunctionUrl"}));
    assert_eq!(invoke["InvokedViaFunctionUrl"], true);
    let callers = json!({"Fn::If": ["IsFunctionUrlPublic", "*", {"Ref": "AWS::AccountId"}]});
    for permission in [url, invoke] {
        assert_eq!((&permission["FunctionName"], &permission["Principal"]), (&json!({"Ref": "Live"}), &callers));
    }
    assert_eq!(template["Conditions"]["IsFunctionUrlPublic"], json!({"Fn::Equals": [{"Ref": "FunctionUrl"}, "NONE"]}));
}

#[test]
fn an_api_with_an_authorizer_has_no_public_function_url() {
    let template = template();
    let rule = &template["Rules"]["TokensOfEverybody"];
    assert_eq!(rule["RuleCondition"], json!({"Fn::Equals": [{"Ref": "FunctionUrl"}, "NONE"]}));
    let [assertion] = rule["Assertions"].as_array().expect("assertions").as_slice() else { panic!("{rule}") };
    assert_eq!(assertion["Assert"], json!({"Fn::Equals": [{"Ref": "JwtIssuer"}, ""]}));
    let told = assertion["AssertDescription"].as_str().expect("a sentence");
    assert!(["FunctionUrl=NONE", "FunctionUrl=AWS_IAM", "JwtIssuer"].iter().all(|name| told.contains(name)), "{told}");
}

/// The function's log of two chats, of one that is streamed, of one that is not saved, and of a request that fails.
async fn log() -> Vec<Value> {
    let stack = stack(&[]).await;
    begin(&stack, &["My name is Ada.", "What is my name?"]).await;
    let streamed = stack.invoke(&chat_event(&json!({"message": "Slowly, please.", "stream": true}), &[])).await;
    assert!(matches!(streamed.expect("the function starts").outcome, Outcome::Response(_)));
    stack.engine().script(operation("TransactWriteItems"), [engine::error("AccessDeniedException")]);
    assert_eq!(say(&stack, None, "Remember me.").await["saved"], false);
    assert_eq!(send(&stack, &event("GET", "/nowhere", &[])).await.status, 404);
    // Everything is written when the processes have ended.
    stack.function.restart().await;
    let lines = stack.function.log().into_iter().map(|line| serde_json::from_str(&line).expect("a line of JSON"));
    lines.collect()
}

/// A metric: its namespace, its name, and the names of its dimensions.
type Metric = (String, String, BTreeSet<String>);

/// The metrics that CloudWatch extracts from the lines of a log.
fn emitted(log: &[Value]) -> BTreeSet<Metric> {
    let texts = |value: &Value| -> Vec<String> {
        let items = value.as_array().into_iter().flatten();
        items.map(|item| item.as_str().expect("a text").to_owned()).collect()
    };
    let directives = log.iter().flat_map(|line| line["_aws"]["CloudWatchMetrics"].as_array().expect("directives"));
    let metrics = directives.flat_map(|directive| {
        let namespace = directive["Namespace"].as_str().expect("a namespace");
        let dimensions = directive["Dimensions"].as_array().expect("dimensions").iter().map(texts);
        dimensions.flat_map(move |dimensions| {
            let metrics = directive["Metrics"].as_array().expect("metrics").iter();
            let name = |metric: &Value| metric["Name"].as_str().expect("a name").to_owned();
            let metric = move |metric| {
                (namespace.to_owned(), name(metric), dimensions.iter().cloned().collect::<BTreeSet<String>>())
            };
            metrics.map(metric).collect::<Vec<_>>()
        })
    });
    metrics.collect()
}

/// The metrics of a search such as `SEARCH('{"namespace",Dimension} MetricName="Name"', 'Sum')`.
fn searched(expression: &str) -> Option<Metric> {
    let (schema, terms) = expression.strip_prefix("SEARCH('{")?.split_once('}')?;
    let mut schema = schema.split(',').map(|name| name.trim_matches('"').to_owned());
    let name = terms.split_once("MetricName=\"")?.1.split_once('"')?.0;
    Some((schema.next()?, name.to_owned(), schema.collect()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_shows_metrics_that_the_function_emits() {
    let log = log().await;
    let emitted = emitted(&log);
    let routes: BTreeSet<&str> = log.iter().filter_map(|line| line["Route"].as_str()).collect();
    let dashboard: Value = serde_json::from_str(&read(".aws/dashboard.json")).expect("the dashboard is JSON");
    let mut shown = BTreeSet::new();
    for widget in dashboard["widgets"].as_array().expect("widgets") {
        assert_eq!(widget["properties"]["region"], "REGION", "{widget}");
        for row in widget["properties"]["metrics"].as_array().expect("metrics") {
            let row = row.as_array().expect("a metric is an array");
            if let Some(expression) = row[0]["expression"].as_str() {
                shown.extend(searched(expression));
                continue;
            }
            let texts: Vec<&str> = row.iter().filter_map(Value::as_str).collect();
            let [namespace, name, dimensions @ ..] = texts.as_slice() else { panic!("{row:?}") };
            for [dimension, value] in dimensions.as_chunks().0 {
                let known = match *dimension {
                    "Route" => routes.contains(value),
                    "ApiId" => *value == "API_ID",
                    "FunctionName" => *value == "FUNCTION_NAME",
                    "TableName" => *value == "TABLE_NAME",
                    _ => false,
                };
                assert!(known, "{row:?}");
            }
            let dimensions = dimensions.iter().step_by(2).map(ToString::to_string);
            shown.insert((namespace.to_string(), name.to_string(), dimensions.collect()));
        }
    }
    let ours: BTreeSet<_> = shown.into_iter().filter(|(namespace, ..)| !namespace.starts_with("AWS/")).collect();
    assert!(ours.is_subset(&emitted), "{:?}", ours.difference(&emitted));
    let names = |metrics: &BTreeSet<Metric>| metrics.iter().map(|(_, name, _)| name.clone()).collect::<BTreeSet<_>>();
    assert_eq!(names(&ours), names(&emitted));
}

/// The members that a query of `CloudWatch` Logs Insights uses.
fn members(query: &str) -> BTreeSet<String> {
    // Everything in it except members and its own names, which follow `as`.
    let words = [
        "as",
        "asc",
        "avg",
        "bin",
        "by",
        "count",
        "desc",
        "fields",
        "filter",
        "ispresent",
        "latest",
        "limit",
        "max",
        "or",
        "and",
        "pct",
        "sort",
        "stats",
        "sum",
    ];
    let lines = query.lines().filter(|line| !line.starts_with('#'));
    let text: String = lines.flat_map(|line| [line, " "]).collect();
    let outside_of_strings: String = text.split('"').step_by(2).collect();
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '@');
    let names: Vec<&str> = outside_of_strings.split(|c| !is_part(c)).filter(|name| !name.is_empty()).collect();
    let own: BTreeSet<&str> = names.windows(2).filter(|pair| pair[0] == "as").map(|pair| pair[1]).collect();
    let is_member =
        |name: &&str| !words.contains(name) && !own.contains(name) && !name.starts_with(|c: char| c.is_ascii_digit());
    names.into_iter().filter(is_member).map(ToOwned::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queries_use_members_that_the_log_has() {
    let log = log().await;
    let mut known: BTreeSet<&str> =
        log.iter().flat_map(|line| line.as_object().expect("a line").keys()).map(String::as_str).collect();
    // Those of CloudWatch itself and of Lambda's own lines (Lambda Developer Guide, "Lambda Telemetry
    // API Event schema reference").
    known.extend(["@timestamp", "@message", "type", "record.requestId"]);
    known.extend(["record.metrics.initDurationMs", "record.metrics.maxMemoryUsedMB"]);
    let mut asked = 0;
    for file in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.aws/queries")).expect("there are queries") {
        let name = format!(".aws/queries/{}", file.expect("a file").file_name().to_string_lossy());
        let query = read(&name);
        assert!(query.starts_with("# "), "{name} says what it answers");
        for member in members(&query) {
            assert!(known.contains(member.as_str()), "{name}: {member}");
            asked += 1;
        }
    }
    assert!(asked > 30, "{asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_alarm_on_turns_that_are_not_saved_finds_them() {
    let log = log().await;
    let template = template();
    let filter = properties(&template, "NotSavedFilter");
    let pattern = filter["FilterPattern"].as_str().expect("a pattern");
    let code = pattern.strip_prefix("{ $.code = \"").and_then(|rest| rest.strip_suffix("\" }")).expect("of a code");
    assert_eq!(log.iter().filter(|line| line["code"] == code).count(), 1, "{log:?}");
    let [metric] = filter["MetricTransformations"].as_array().expect("metrics").as_slice() else { panic!("{filter}") };
    let alarm = properties(&template, "NotSavedAlarm");
    assert_eq!((&alarm["Namespace"], &alarm["MetricName"]), (&metric["MetricNamespace"], &metric["MetricName"]));
}
