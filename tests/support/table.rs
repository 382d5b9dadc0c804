//! The content of the table: the turns of conversations, and the counters of tokens.

use std::collections::BTreeMap;

use local_stack::LocalStack;
use local_stack::engine::HISTORY_TABLE;
use serde_json::Value;

/// A stored turn.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) said: String,
    pub(crate) answered: String,
    pub(crate) key: Option<String>,
}

/// The items of a conversation, by their sort keys.
type Items<'a> = BTreeMap<&'a str, &'a Value>;

/// The conversations among `items`, by their ids, with their turns in order.
///
/// # Panics
/// If one is not whole: a turn is missing or incomplete, the count is another, or a key belongs to
/// no turn or to more than one.
pub(crate) fn conversations(items: &[Value]) -> BTreeMap<String, Vec<Turn>> {
    let mut conversations: BTreeMap<&str, Items<'_>> = BTreeMap::new();
    for item in items {
        let (pk, sk) = (text(item, "pk"), text(item, "sk"));
        if let Some(("conversation", rest)) = pk.split_once('#') {
            let id = rest.rsplit('#').next().expect("there is a last part");
            assert!(conversations.entry(id).or_default().insert(sk, item).is_none(), "{pk} has {sk} twice");
        }
    }
    conversations.into_iter().map(|(id, items)| (id.to_owned(), turns(id, &items))).collect()
}

fn turns(id: &str, items: &Items<'_>) -> Vec<Turn> {
    let mut turns = Vec::new();
    let mut keys = BTreeMap::new();
    for (index, (sk, item)) in items.iter().filter(|(sk, _)| sk.starts_with("turn#")).enumerate() {
        let number = index + 1;
        assert_eq!(*sk, format!("turn#{number:010}"), "{id} has a gap: {:?}", items.keys());
        let key = item["idempotency_key"]["S"].as_str();
        if let Some(key) = key {
            assert_eq!(keys.insert(format!("key#{key}"), number), None, "{id} has two turns of one key");
        }
        let (said, answered) = (text(item, "user").to_owned(), text(item, "assistant").to_owned());
        turns.push(Turn { said, answered, key: key.map(ToOwned::to_owned) });
    }
    let count = items.get("~conversation").map(|item| number(item, "turns"));
    assert_eq!(count, Some(turns.len()), "{id} counts other turns than it has: {:?}", items.keys());
    let stored = items.iter().filter(|(sk, _)| sk.starts_with("key#"));
    let stored: BTreeMap<_, _> = stored.map(|(sk, item)| ((*sk).to_owned(), number(item, "turn"))).collect();
    assert_eq!(stored, keys, "{id} has other keys than its turns");
    turns
}

fn text<'a>(item: &'a Value, name: &str) -> &'a str {
    let text = item[name]["S"].as_str().filter(|text| !text.is_empty());
    text.unwrap_or_else(|| panic!("{item} has no {name}"))
}

fn number(item: &Value, name: &str) -> usize {
    let number = item[name]["N"].as_str().and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("{item} has no {name}"))
}

/// The counters of the table.
pub(crate) async fn counters(stack: &LocalStack) -> Vec<Value> {
    let items = stack.engine().items(HISTORY_TABLE).await;
    items.into_iter().filter(|item| item["sk"]["S"] == "usage").collect()
}

pub(crate) fn used(counter: &Value) -> u64 {
    counter["used"]["N"].as_str().expect("a number").parse().expect("not below zero")
}

/// The names of the reservations.
pub(crate) fn reservations(counter: &Value) -> Vec<String> {
    let names = counter.as_object().expect("an item").keys();
    names.filter(|name| name.starts_with("r#")).cloned().collect()
}
