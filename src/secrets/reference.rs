//! The ARN of a parameter or of a secret.

use std::str::FromStr;

/// What a reference has to look like.
const EXPECTED: &str = "expected arn:aws:ssm:REGION:ACCOUNT:parameter/NAME or \
    arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME-XXXXXX, the latter with or without :JSON-KEY:VERSION-STAGE:VERSION-ID";

/// A reference to a secret, in the form that Amazon ECS gives to `valueFrom` (Amazon ECS Developer Guide,
/// "Pass sensitive data to an Amazon ECS container").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The ARN, without what ECS appends to it.
    pub arn: String,
    /// The region.
    pub region: String,
    /// The domain of the endpoints in this partition.
    domain: &'static str,
    /// What the ARN names.
    pub service: Service,
}

/// The service that has the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Service {
    /// The Parameter Store of AWS Systems Manager.
    ParameterStore,
    /// AWS Secrets Manager. What the reference leaves empty is `None`.
    SecretsManager {
        /// The member of the secret's JSON that holds the value.
        json_key: Option<String>,
        /// The staging label of the version.
        version_stage: Option<String>,
        /// The id of the version.
        version_id: Option<String>,
    },
}

impl Service {
    /// The service's name in ARNs, endpoints and signatures.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::ParameterStore => "ssm",
            Self::SecretsManager { .. } => "secretsmanager",
        }
    }
}

impl Reference {
    /// Whether `value` looks like a reference, even if it is not a valid one.
    #[must_use]
    pub fn looks_like(value: &str) -> bool {
        value.starts_with("arn:")
    }

    /// The URL of the service in the region (AWS General Reference, "Service endpoints").
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}.{}.{}", self.service.name(), self.region, self.domain)
    }
}

impl FromStr for Reference {
    type Err = String;

    /// # Errors
    /// A text that says what is wrong, without the value.
    fn from_str(arn: &str) -> Result<Self, String> {
        let wrong = |reason: &str| format!("{reason}; {EXPECTED}");
        if !Self::looks_like(arn) {
            return Err(wrong("it is not an ARN"));
        }
        let mut parts = arn.splitn(6, ':');
        let mut part = || parts.next().unwrap_or_default();
        let (_, partition, service, region, account, resource) = (part(), part(), part(), part(), part(), part());
        let domain = match partition {
            "aws" | "aws-us-gov" => "amazonaws.com",
            "aws-cn" => "amazonaws.com.cn",
            _ => return Err(wrong("it has an unknown partition")),
        };
        // The region becomes part of a host name.
        let is_label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if region.is_empty() || region.len() > 32 || !region.chars().all(is_label) {
            return Err(wrong("it has no valid region"));
        }
        if account.len() != 12 || !account.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong("its account does not have 12 digits"));
        }
        let (service, length) = match service {
            "ssm" => (Service::ParameterStore, parameter(resource).map_err(wrong)?),
            "secretsmanager" => secret(resource).map_err(wrong)?,
            _ => return Err(wrong("it names another service")),
        };
        let arn = arn[..arn.len() - resource.len() + length].to_owned();
        Ok(Self { arn, region: region.to_owned(), domain, service })
    }
}

/// Checks the resource of a parameter. Returns the length of its part of the ARN.
fn parameter(resource: &str) -> Result<usize, &'static str> {
    let name = resource.strip_prefix("parameter/").ok_or("it names no parameter")?;
    let is_legal = |c: char| c.is_ascii_alphanumeric() || "_.-/".contains(c);
    if name.is_empty() || !name.chars().all(is_legal) {
        return Err("the parameter's name is empty or has characters other than letters, digits, _, ., - and /");
    }
    Ok(resource.len())
}

/// The secret that the resource of a secret names, and the length of its part of the ARN.
fn secret(resource: &str) -> Result<(Service, usize), &'static str> {
    let rest = resource.strip_prefix("secret:").ok_or("it names no secret")?;
    let mut parts = rest.split(':');
    let name = parts.next().unwrap_or_default();
    let is_legal = |c: char| c.is_ascii_alphanumeric() || "/_+=.@-".contains(c);
    if name.is_empty() || !name.chars().all(is_legal) {
        return Err("the secret's name is empty or has characters other than letters, digits, /, _, +, =, ., @ and -");
    }
    let rest: Vec<_> = parts.map(|part| Some(part.to_owned()).filter(|part| !part.is_empty())).collect();
    let [json_key, version_stage, version_id] = match rest.len() {
        0 => [None, None, None],
        _ => rest
            .try_into()
            .map_err(|_| "the secret's name must be followed by three parts, each of which may be empty, or by none")?,
    };
    let length = resource.len() - resource["secret:".len() + name.len()..].len();
    Ok((Service::SecretsManager { json_key, version_stage, version_id }, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(arn: &str) -> (String, String, [Option<String>; 3]) {
        let reference: Reference = arn.parse().unwrap_or_else(|error| panic!("{arn}: {error}"));
        let url = reference.url();
        match reference.service {
            Service::ParameterStore => (reference.arn, url, [None, None, None]),
            Service::SecretsManager { json_key, version_stage, version_id } => {
                (reference.arn, url, [json_key, version_stage, version_id])
            }
        }
    }

    #[test]
    fn a_reference_is_parsed_as_amazon_ecs_does() {
        let parameter = "arn:aws:ssm:us-east-1:123456789012:parameter/team/openai.key_1-x";
        let secret = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:team/openai+=.@-AbCdEf";
        let government = "arn:aws-us-gov:ssm:us-gov-west-1:123456789012:parameter/key";
        let china = "arn:aws-cn:secretsmanager:cn-north-1:123456789012:secret:key-AbCdEf";
        let eu_west = "https://secretsmanager.eu-west-1.amazonaws.com";
        let rows = [
            (parameter, "", "https://ssm.us-east-1.amazonaws.com", [None, None, None]),
            (government, "", "https://ssm.us-gov-west-1.amazonaws.com", [None, None, None]),
            (china, "", "https://secretsmanager.cn-north-1.amazonaws.com.cn", [None, None, None]),
            (secret, "", eu_west, [None, None, None]),
            (secret, ":::", eu_west, [None, None, None]),
            (secret, ":API_KEY::", eu_west, [Some("API_KEY"), None, None]),
            (secret, ":the key::", eu_west, [Some("the key"), None, None]),
            (secret, "::AWSPREVIOUS:", eu_west, [None, Some("AWSPREVIOUS"), None]),
            (secret, ":::9d4cb84b-ad69", eu_west, [None, None, Some("9d4cb84b-ad69")]),
            (secret, ":a:b:c", eu_west, [Some("a"), Some("b"), Some("c")]),
        ];
        for (arn, appended, url, rest) in rows {
            let expected = (arn.to_owned(), url.to_owned(), rest.map(|part| part.map(ToOwned::to_owned)));
            assert_eq!(parts(&format!("{arn}{appended}")), expected, "{arn}{appended}");
        }
    }

    #[test]
    fn what_is_not_a_reference_is_rejected_with_a_reason() {
        let rows = [
            ("barn:aws:ssm:us-east-1:123456789012:parameter/key", "not an ARN"),
            ("arn:", "partition"),
            ("arn:aws", "region"),
            ("arn:aws-iso:ssm:us-iso-east-1:123456789012:parameter/key", "partition"),
            ("arn:aws:ssm::123456789012:parameter/key", "region"),
            ("arn:aws:ssm:us-east-1.example.com/:123456789012:parameter/key", "region"),
            ("arn:aws:ssm:US-EAST-1:123456789012:parameter/key", "region"),
            ("arn:aws:ssm:us-east-1::parameter/key", "account"),
            ("arn:aws:ssm:us-east-1:1234-5678-90:parameter/key", "account"),
            ("arn:aws:ssm:us-east-1:123456789012", "names no parameter"),
            ("arn:aws:ssm:us-east-1:123456789012:parameter", "names no parameter"),
            ("arn:aws:ssm:us-east-1:123456789012:parameter/", "the parameter's name"),
            ("arn:aws:ssm:us-east-1:123456789012:parameter/key:2", "the parameter's name"),
            ("arn:aws:ssm:us-east-1:123456789012:secret:key-AbCdEf", "names no parameter"),
            ("arn:aws:secretsmanager:us-east-1:123456789012:parameter/key", "names no secret"),
            ("arn:aws:secretsmanager:us-east-1:123456789012:secret:", "the secret's name"),
            ("arn:aws:secretsmanager:us-east-1:123456789012:secret:a b", "the secret's name"),
            ("arn:aws:secretsmanager:us-east-1:123456789012:secret:key-AbCdEf:", "three parts"),
            ("arn:aws:secretsmanager:us-east-1:123456789012:secret:key-AbCdEf:API_KEY", "three parts"),
            ("arn:aws:secretsmanager:us-east-1:123456789012:secret:key-AbCdEf:a:b:c:d", "three parts"),
            ("arn:aws:s3:::bucket/key", "region"),
            ("arn:aws:kms:us-east-1:123456789012:key/1", "another service"),
        ];
        for (value, expected) in rows {
            let error = value.parse::<Reference>().expect_err(value);
            assert!(error.contains(expected) && error.contains("; expected arn:aws:ssm:"), "{value}: {error}");
        }
    }
}
