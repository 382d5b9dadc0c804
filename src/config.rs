//! The configuration. Nothing else reads the environment.
//!
//! An empty variable counts as not set, so that a copied `.env.example` works as it is.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::time::Duration;

use http::Uri;

use self::variable::Variable;
use crate::access;
use crate::endpoints::chat;
use crate::secret::{AccessKeys, Secret};
use crate::secrets::{self, Reference, Service};
use crate::{cors, history, http_client, openai, quota, telemetry};

mod variable;

pub use self::variable::Error;
pub use crate::error::NotConfigured;

/// The settings of a client, or what is missing or cannot be used, in which case there is no such client.
pub type Configured<T> = Result<T, NotConfigured>;

/// The default base URL, and the only one that needs a key.
const OPENAI: &str = "https://api.openai.com/v1";

/// What is missing if requests to AWS cannot be signed.
const ACCESS_KEYS: &str = "AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY";

/// Everything that can be set from outside.
#[derive(Debug)]
pub struct Config {
    /// `ALLOWED_ORIGINS`, `ALLOWED_METHODS`, `ALLOWED_HEADERS`, `CORS_ALLOW_CREDENTIALS` and
    /// `CORS_MAX_AGE`.
    pub(crate) cors: cors::Policy,
    /// `BASE_PATH` without leading and trailing slash; empty if it is not set.
    pub(crate) base_path: String,
    /// `DOCS`: whether the API shows its pages and its documentation.
    pub(crate) docs: bool,
    /// `FUNCTION_URL_INVOKE_MODE`: whether Function URLs stream responses.
    pub(crate) response_stream: bool,
    /// `AWS_CA_BUNDLE`: the certificates that replace the built-in roots.
    pub(crate) roots: Option<http_client::Roots>,
    /// `OPENAI_*`: the model.
    pub openai: Configured<openai::Settings>,
    /// `HISTORY_TABLE`, `HISTORY_TTL_DAYS` and the variables that Lambda sets: the table.
    pub history: Configured<history::Settings>,
    /// `SYSTEM_PROMPT`, `HISTORY_WINDOW_TURNS`, `HISTORY_WINDOW_CHARS`, `DAILY_TOKEN_LIMIT` and
    /// `DAILY_TOKEN_LIMIT_TOTAL`.
    pub(crate) chat: chat::Settings,
    /// `ACCESS_TOKENS`: the tokens that are accepted; `None` if callers do not need one.
    pub(crate) access_tokens: Option<access::Tokens>,
    /// `AWS_LAMBDA_LOG_LEVEL`: lines below it are not written.
    pub(crate) log_level: telemetry::Level,
}

/// The host and port of the Runtime API; `None` unless Lambda or an emulator started this process.
#[must_use]
pub fn runtime_api() -> Option<String> {
    let address = env::var_os("AWS_LAMBDA_RUNTIME_API").filter(|address| !address.is_empty())?;
    Some(address.to_string_lossy().into_owned())
}

impl Config {
    /// The configuration from this process's environment.
    ///
    /// # Errors
    /// The first variable that cannot be used.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_lookup(|name| env::var_os(name))
    }

    /// The configuration from the variables that `lookup` finds.
    ///
    /// # Errors
    /// The first variable that cannot be used.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, Error> {
        let variable = |name| Variable::read(name, lookup(name));
        let credentials = variable("CORS_ALLOW_CREDENTIALS")?;
        let cors = cors::Policy::new(
            variable("ALLOWED_ORIGINS")?
                .list("*", "* or a comma-separated list such as https://app.example.com,https://*.example.com")?,
            variable("ALLOWED_METHODS")?.list("*", "* or a comma-separated list such as GET,POST")?,
            variable("ALLOWED_HEADERS")?.list("*", "* or a comma-separated list such as content-type,authorization")?,
            credentials.scalar(false, "true or false")?,
            variable("CORS_MAX_AGE")?.scalar(7200, "a number of seconds from 0 to 4294967295")?,
        );
        let cors = cors.map_err(|cors::CredentialsForAnyOrigin| {
            credentials.error(
                "it is never allowed for every origin; expected ALLOWED_ORIGINS to be a comma-separated list of the \
                 origins that may send credentials, such as https://app.example.com"
                    .to_owned(),
            )
        })?;
        let roots = variable("AWS_CA_BUNDLE")?;
        let roots = roots.value.as_deref().map(|path| {
            let pem = fs::read(path).map_err(|error| error.to_string());
            let parsed = pem.and_then(|pem| http_client::Roots::from_pem(&pem));
            parsed.map_err(|reason| roots.error(format!("{reason}; expected the path of a file of PEM certificates")))
        });
        let limit = |variable: Variable| {
            let expected = format!("a number of tokens from 0, which means no limit, to {}", quota::MAX_LIMIT);
            let limit = variable.within(0..=quota::MAX_LIMIT, 0, &expected)?;
            Ok((limit > 0).then_some(limit))
        };
        let chat = chat::Settings {
            system_prompt: variable("SYSTEM_PROMPT")?.value.map(Into::into),
            window_turns: variable("HISTORY_WINDOW_TURNS")?.scalar(20, "a number of turns from 0 to 65535")?,
            window_chars: variable("HISTORY_WINDOW_CHARS")?
                .scalar(48_000, "a number of characters from 0 to 4294967295")?,
            limits: quota::Limits {
                caller: limit(variable("DAILY_TOKEN_LIMIT")?)?,
                total: limit(variable("DAILY_TOKEN_LIMIT_TOTAL")?)?,
            },
        };
        Ok(Self {
            cors,
            base_path: variable("BASE_PATH")?.base_path()?,
            docs: variable("DOCS")?.one_of(&["on", "off"])? != Some("off"),
            response_stream: variable("FUNCTION_URL_INVOKE_MODE")?.one_of(&["BUFFERED", "RESPONSE_STREAM"])?
                == Some("RESPONSE_STREAM"),
            roots: roots.transpose()?,
            openai: Self::openai(variable)?,
            history: Self::history(variable)?,
            chat,
            access_tokens: variable("ACCESS_TOKENS")?.access_tokens()?,
            log_level: variable("AWS_LAMBDA_LOG_LEVEL")?
                .scalar(telemetry::Level::Info, "TRACE, DEBUG, INFO, WARN, ERROR or FATAL")?,
        })
    }

    fn openai(
        variable: impl Fn(&'static str) -> Result<Variable, Error>,
    ) -> Result<Configured<openai::Settings>, Error> {
        let base_url = variable("OPENAI_BASE_URL")?;
        let api_key = variable("OPENAI_API_KEY")?.header_value()?;
        let mut settings = openai::Settings {
            base_url: base_url.url(Some(OPENAI))?.unwrap_or_default(),
            api_key: None,
            model: variable("OPENAI_MODEL")?.value.unwrap_or_else(|| "gpt-6-luna".to_owned()),
            max_output_tokens: variable("OPENAI_MAX_OUTPUT_TOKENS")?.within(
                1..=u32::MAX,
                1024,
                "a number of tokens from 1 to 4294967295",
            )?,
            token_limit_field: variable("OPENAI_TOKEN_LIMIT_FIELD")?
                .one_of(&["max_completion_tokens", "max_tokens"])?
                .unwrap_or("max_completion_tokens"),
            reasoning_effort: variable("OPENAI_REASONING_EFFORT")?.value,
            temperature: variable("OPENAI_TEMPERATURE")?.temperature()?,
        };
        match api_key {
            None if base_url.value.is_none() => return Ok(Err(NotConfigured::Variable("OPENAI_API_KEY"))),
            None => {}
            Some(arn) if Reference::looks_like(&arn) => match Self::stored("OPENAI_API_KEY", &arn, variable)? {
                Ok(stored) => settings.api_key = Some(secrets::Source::Stored(Box::new(stored))),
                Err(missing) => return Ok(Err(missing)),
            },
            Some(key) => settings.api_key = Some(secrets::Source::Given(Secret::new(key))),
        }
        Ok(Ok(settings))
    }

    /// The secret that the variable `name` refers to by `arn`.
    fn stored(
        name: &'static str,
        arn: &str,
        variable: impl Fn(&'static str) -> Result<Variable, Error>,
    ) -> Result<Configured<secrets::Settings>, Error> {
        let reference: Reference = match arn.parse() {
            Ok(reference) => reference,
            Err(reason) => {
                let reason = format!("{name} begins with arn: but is not a reference to a secret: {reason}");
                return Ok(Err(NotConfigured::Secret(name, reason)));
            }
        };
        let endpoint_url = match reference.service {
            Service::ParameterStore => variable("AWS_ENDPOINT_URL_SSM")?,
            Service::SecretsManager { .. } => variable("AWS_ENDPOINT_URL_SECRETS_MANAGER")?,
        };
        let endpoint_url = Self::endpoint_url(&endpoint_url, &variable)?;
        let Some(keys) = Self::access_keys(variable)? else { return Ok(Err(NotConfigured::Variable(ACCESS_KEYS))) };
        Ok(Ok(secrets::Settings { variable: name, reference, endpoint_url, keys, lifetime: secrets::LIFETIME }))
    }

    /// The address of an AWS service: from the service's `own` variable, otherwise from the one for all services
    /// (AWS SDKs and Tools Reference Guide, "Service-specific endpoints").
    fn endpoint_url(
        own: &Variable,
        variable: impl Fn(&'static str) -> Result<Variable, Error>,
    ) -> Result<Option<Uri>, Error> {
        match own.url(None)? {
            Some(url) => Ok(Some(url)),
            None => variable("AWS_ENDPOINT_URL")?.url(None),
        }
    }

    /// The access keys of the function's role, which Lambda always sets.
    fn access_keys(variable: impl Fn(&'static str) -> Result<Variable, Error>) -> Result<Option<AccessKeys>, Error> {
        let (id, secret) = (variable("AWS_ACCESS_KEY_ID")?.value, variable("AWS_SECRET_ACCESS_KEY")?.value);
        let session_token = variable("AWS_SESSION_TOKEN")?.value.map(Secret::new);
        let keys = |(id, secret)| AccessKeys { id, secret: Secret::new(secret), session_token };
        Ok(id.zip(secret).map(keys))
    }

    fn history(
        variable: impl Fn(&'static str) -> Result<Variable, Error>,
    ) -> Result<Configured<history::Settings>, Error> {
        let table = variable("HISTORY_TABLE")?.table()?;
        let days: u32 =
            variable("HISTORY_TTL_DAYS")?.scalar(30, "a number of days from 0, which means for ever, to 4294967295")?;
        let endpoint_url = Self::endpoint_url(&variable("AWS_ENDPOINT_URL_DYNAMODB")?, &variable)?;
        let Some(table) = table else { return Ok(Err(NotConfigured::Variable("HISTORY_TABLE"))) };
        // Lambda always sets it.
        let (Some(region), Some(keys)) = (variable("AWS_REGION")?.value, Self::access_keys(variable)?) else {
            return Ok(Err(NotConfigured::Variable("AWS_REGION, AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY")));
        };
        Ok(Ok(history::Settings {
            table,
            region,
            endpoint_url: endpoint_url.map(|url| url.to_string()),
            keys,
            time_to_live: (days > 0).then(|| Duration::from_secs(u64::from(days) * 24 * 60 * 60)),
        }))
    }
}
