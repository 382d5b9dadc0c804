//! What `.aws` says, held against the code: the template's role, table and variables.

use std::collections::BTreeSet;

use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Value, json};

use crate::in_process::configure;
use crate::local::Backends;
use crate::local::engine::HISTORY_TABLE;
use crate::policy::{read, variables_read};
use crate::talk::{begin, share};

/// `.aws/template.yaml` with its tags written out: `!Ref Name` is `{"Ref": "Name"}`, and every
/// other one, such as `!GetAtt`, a function ("Intrinsic function reference" of AWS
/// `CloudFormation`).
pub(crate) fn template() -> Value {
    fn json(node: &Yaml) -> Value {
        match node {
            Yaml::Value(Scalar::Null) => Value::Null,
            Yaml::Value(Scalar::Boolean(value)) => json!(value),
            Yaml::Value(Scalar::Integer(value)) => json!(value),
            Yaml::Value(Scalar::FloatingPoint(value)) => json!(value.into_inner()),
            Yaml::Value(Scalar::String(value)) => json!(value),
            Yaml::Sequence(items) => items.iter().map(json).collect(),
            Yaml::Mapping(members) => {
                let name = |name: &Yaml| name.as_str().expect("a name is a string").to_owned();
                Value::Object(members.iter().map(|(member, value)| (name(member), json(value))).collect())
            }
            Yaml::Tagged(tag, value) => {
                let function = if tag.suffix == "Ref" { "Ref".to_owned() } else { format!("Fn::{}", tag.suffix) };
                json!({function: json(value)})
            }
            node => panic!("not in a template: {node:?}"),
        }
    }
    let documents = Yaml::load_from_str(&read(".aws/template.yaml")).expect("the template is YAML");
    let [document] = documents.as_slice() else { panic!("the template is one document") };
    json(document)
}

/// The properties of the template's resource with this name.
pub(crate) fn properties(template: &Value, resource: &str) -> Value {
    let properties = &template["Resources"][resource]["Properties"];
    assert!(properties.is_object(), "the template has no {resource}");
    properties.clone()
}

/// What stands for `value` when no parameter is given.
fn by_default(template: &Value, value: &Value) -> Value {
    if let Some(parameter) = value["Ref"].as_str() {
        return template["Parameters"][parameter]["Default"].clone();
    }
    match value["Fn::If"].as_array().map(Vec::as_slice) {
        // Each condition asks whether something was asked for.
        Some([_, _, otherwise]) => by_default(template, otherwise),
        _ => value.clone(),
    }
}

#[test]
fn the_role_may_write_its_own_log_and_nothing_more_beside_the_table() {
    let role = properties(&template(), "Role");
    let policies = role["Policies"].as_array().expect("policies");
    assert_eq!(policies.iter().map(|policy| &policy["PolicyName"]).collect::<Vec<_>>(), ["log", "history"]);
    assert_eq!(
        policies[0]["PolicyDocument"]["Statement"],
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

#[test]
fn the_template_sets_variables_that_are_read_to_the_defaults_of_the_code() {
    let template = template();
    let function = properties(&template, "Function");
    let variables = function["Environment"]["Variables"].as_object().expect("variables");
    let names: BTreeSet<String> = variables.keys().cloned().collect();
    assert!(names.is_subset(&variables_read()), "{names:?}");
    assert_eq!(by_default(&template, &variables["HISTORY_TABLE"]), HISTORY_TABLE);

    // Without these there is no default to be seen; Lambda sets them.
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
        .map(|(name, value)| match by_default(&template, value) {
            Value::String(text) => (name.as_str(), text),
            number => (name.as_str(), number.to_string()),
        })
        .collect();
    let given = values.iter().map(|(name, value)| (*name, value.as_str()));
    let given: Vec<_> = platform.into_iter().chain(given.filter(|(_, value)| !value.is_empty())).collect();
    assert!(given.len() > platform.len(), "{given:?}");
    assert_eq!(configured(&given), configured(&platform));
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
    let expires_at = expiry["AttributeName"].as_str().expect("an attribute's name");
    for item in &items {
        let seconds = item[expires_at]["N"].as_str().expect("a number of seconds");
        assert!(seconds.parse::<u64>().is_ok(), "{item}");
    }
}

#[test]
fn the_template_and_the_readme_agree_on_the_function() {
    let template = template();
    let function = properties(&template, "Function");
    assert_eq!(by_default(&template, &function["Timeout"]), 30);
    assert_eq!(properties(&template, "Integration")["TimeoutInMillis"], 30_000);
    let readme = read("README.md");
    assert!(readme.contains("a timeout of 30 seconds"));
    assert_eq!(function["Runtime"], "provided.al2023");
    assert!(readme.contains("`provided.al2023`"));
    assert_eq!(by_default(&template, &function["Architectures"][0]), "x86_64");
    assert!(read("build.sh").contains("lambda_architecture=x86_64\n"));
}

/// API Gateway would answer preflights that its own configuration allows, and turn away the others.
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
    assert!(!authorized("PreflightRoute") && !authorized("HealthRoute"));
}
