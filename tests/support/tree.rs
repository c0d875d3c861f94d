//! A document as its reader sees it, as JSON.

use locum::document::{Node, Value as Yaml};
use serde_json::{Map, Value, json};

pub fn tree(node: &Node) -> Value {
    match &node.value {
        Yaml::Null | Yaml::Refused => Value::Null,
        Yaml::Bool(value) => json!(value),
        Yaml::Int(value) => json!(value),
        Yaml::Float(value) => json!(value),
        Yaml::String(text) => json!(text),
        Yaml::Seq(items) => items.iter().map(tree).collect(),
        Yaml::Map(entries) => {
            let entries = entries.iter().map(|(key, value)| (key.text.to_string(), tree(value)));
            Value::Object(entries.collect::<Map<_, _>>())
        }
    }
}
