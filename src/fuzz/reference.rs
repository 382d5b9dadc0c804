//! References to secrets.

use super::text;
use crate::secrets::{Reference, Service};

/// The ARN of a parameter or a secret: the parts that are read make up the ARN, and the URL has the service's own host.
/// The error for one that cannot be used does not repeat it.
pub fn reference(input: &[u8]) {
    let value = text(input);
    let reference: Reference = match value.parse() {
        Ok(reference) => reference,
        Err(reason) => return assert!(value.len() < 40 || !reason.contains(&value), "{reason}"),
    };
    assert!(Reference::looks_like(&value));
    let Reference { arn, region, service, .. } = &reference;
    let parts: Vec<&str> = arn.split(':').collect();
    let ["arn", partition, name, part, account, rest @ ..] = &parts[..] else { panic!("{arn}") };
    assert_eq!((*name, *part), (service.name(), region.as_str()));
    assert!(account.len() == 12 && account.parse::<u64>().is_ok(), "{arn}");
    let domain = if *partition == "aws-cn" { "amazonaws.com.cn" } else { "amazonaws.com" };
    let url: http::Uri = reference.url().parse().expect("it is a URL");
    assert_eq!(url.authority().map(http::uri::Authority::as_str), Some(&*format!("{name}.{region}.{domain}")));
    assert_eq!((url.scheme_str(), url.path(), url.query()), (Some("https"), "/", None));
    let appended = match service {
        Service::ParameterStore => {
            assert!(matches!(rest, [parameter] if parameter.starts_with("parameter/")), "{arn}");
            String::new()
        }
        Service::SecretsManager { json_key, version_stage, version_id } => {
            assert!(matches!(rest, ["secret", name] if !name.is_empty()), "{arn}");
            let parts = [json_key, version_stage, version_id].map(|part| part.as_deref());
            assert!(!parts.contains(&Some("")), "an empty part counts as missing");
            parts.iter().flat_map(|part| [":", part.unwrap_or_default()]).collect()
        }
    };
    let rest = value.strip_prefix(arn.as_str()).expect("the value begins with the ARN");
    assert!(rest == appended || rest.is_empty() && appended == ":::", "{value:?} is {reference:?}");
}
