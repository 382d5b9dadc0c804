//! `.aws/template.yaml`.

use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Value, json};

use super::pages::read;

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
