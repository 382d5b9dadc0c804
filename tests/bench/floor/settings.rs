//! The settings from the environment, and the requests that are made from them.

use std::cell::OnceCell;
use std::env;
use std::fs;
use std::io::Write;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{cipher_suite, default_provider, kx_group};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};

use crate::Failure;
use crate::clock::Time;
use crate::connection::Connection;
use crate::table::{Keys, Turn};

/// The variables by their names.
pub(crate) struct Settings {
    /// `OPENAI_BASE_URL`.
    pub(crate) model: Server,
    /// `AWS_ENDPOINT_URL_DYNAMODB`.
    pub(crate) table: Server,
    /// `AWS_CA_BUNDLE`: the roots. Made when the first connection with TLS is.
    pub(crate) tls: Tls,
    api_key: Option<String>,
    table_name: String,
    region: String,
    keys: Keys,
}

/// A server of `http://` or `https://`.
pub(crate) struct Server {
    is_tls: bool,
    /// The host and the port.
    address: String,
    /// Without a slash at its end.
    path: String,
}

/// How TLS is done with both servers.
pub(crate) struct Tls(OnceCell<Arc<ClientConfig>>);

impl Settings {
    pub(crate) fn from_env() -> Result<Self, Failure> {
        let variable = |name| env::var(name).map_err(|error| format!("{name}: {error}"));
        Ok(Self {
            model: Server::parse(&variable("OPENAI_BASE_URL")?)?,
            table: Server::parse(&variable("AWS_ENDPOINT_URL_DYNAMODB")?)?,
            tls: Tls(OnceCell::new()),
            api_key: variable("OPENAI_API_KEY").ok(),
            table_name: variable("HISTORY_TABLE")?,
            region: variable("AWS_REGION")?,
            keys: Keys {
                id: variable("AWS_ACCESS_KEY_ID")?,
                secret: variable("AWS_SECRET_ACCESS_KEY")?,
                session_token: variable("AWS_SESSION_TOKEN").ok(),
            },
        })
    }

    /// The request for the model's answer to `message` (OpenAI API reference, "Create chat completion").
    pub(crate) fn completion_request(&self, message: &str) -> Result<Vec<u8>, Failure> {
        let mut body = br#"{"model":"gpt-6-luna","messages":[{"role":"user","content":"#.to_vec();
        serde_json::to_writer(&mut body, message)?;
        body.extend_from_slice(br#"}],"max_completion_tokens":1024}"#);
        let mut request = Vec::with_capacity(1024);
        let Server { address, path, .. } = &self.model;
        write!(
            request,
            "POST {path}/chat/completions HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
             accept: */*\r\nuser-agent: floor\r\ncontent-length: {}\r\n",
            body.len()
        )?;
        if let Some(key) = &self.api_key {
            write!(request, "authorization: Bearer {key}\r\n")?;
        }
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(&body);
        Ok(request)
    }

    /// The request that writes `turn`.
    pub(crate) fn write_request(&self, turn: &Turn<'_>, now: Time) -> Result<Vec<u8>, Failure> {
        let body = turn.transaction(&self.table_name, now)?;
        self.keys.signed_request(&self.table.address, &self.region, &body, now)
    }
}

impl Server {
    fn parse(url: &str) -> Result<Self, Failure> {
        let (scheme, rest) = url.split_once("://").ok_or_else(|| format!("{url} is no URL"))?;
        let (address, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let is_tls = scheme == "https";
        let port = if is_tls { ":443" } else { ":80" };
        let port = if address.contains(':') { "" } else { port };
        Ok(Self { is_tls, address: format!("{address}{port}"), path: path.trim_end_matches('/').to_owned() })
    }

    /// The connection that is kept in `kept`, or a new one.
    pub(crate) fn connection<'a>(
        &self,
        kept: &'a mut Option<Connection>,
        tls: &Tls,
    ) -> Result<&'a mut Connection, Failure> {
        if kept.is_none() {
            *kept = Some(if self.is_tls {
                Connection::open_tls(&self.address, &tls.config()?)?
            } else {
                Connection::open_plain(&self.address)?
            });
        }
        kept.as_mut().ok_or_else(|| "a connection has gone".into())
    }
}

impl Tls {
    /// TLS 1.3 with X25519 and AES-128-GCM, which every current server has.
    fn config(&self) -> Result<Arc<ClientConfig>, Failure> {
        if let Some(config) = self.0.get() {
            return Ok(Arc::clone(config));
        }
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(&fs::read(env::var("AWS_CA_BUNDLE")?)?) {
            roots.add(root?)?;
        }
        let provider = CryptoProvider {
            cipher_suites: vec![cipher_suite::TLS13_AES_128_GCM_SHA256],
            kx_groups: vec![kx_group::X25519],
            ..default_provider()
        };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Arc::clone(self.0.get_or_init(|| Arc::new(config))))
    }
}
