//! Reads the headers of an event.

use std::borrow::Cow;
use std::fmt;

use http::{HeaderMap, HeaderValue};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use crate::request::READ_HEADERS;

/// The longest header value that is read, in bytes. The request line and all headers together cannot be longer
/// ("Quotas for HTTP APIs").
const MAX_HEADER: usize = 10 * 1024;

/// The [`READ_HEADERS`] in an object of strings. A value that is not a legal HTTP field value, or is longer than
/// [`MAX_HEADER`], is ignored.
pub(super) fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HeaderMap, D::Error> {
    struct Headers;

    impl<'de> Visitor<'de> for Headers {
        type Value = HeaderMap;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an object of header names and values")
        }

        fn visit_none<E>(self) -> Result<HeaderMap, E> {
            Ok(HeaderMap::new())
        }

        fn visit_unit<E>(self) -> Result<HeaderMap, E> {
            Ok(HeaderMap::new())
        }

        fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<HeaderMap, D::Error> {
            deserializer.deserialize_map(self)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<HeaderMap, A::Error> {
            let mut headers = HeaderMap::new();
            while let Some(name) = map.next_key::<Cow<'_, str>>()? {
                let Some(name) = READ_HEADERS.into_iter().find(|read| name.eq_ignore_ascii_case(read.as_str())) else {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                };
                if let Value::String(value) = map.next_value()?
                    && value.len() <= MAX_HEADER
                    && let Ok(value) = HeaderValue::try_from(value)
                {
                    headers.insert(name, value);
                }
            }
            Ok(headers)
        }
    }

    deserializer.deserialize_option(Headers)
}
