//! The back ends with TLS, whose chains are like those of the real ones: the model has an ECDSA certificate for
//! P-256, the table one for RSA with 2048 bits, each signed by an intermediate authority with RSA, and that by the
//! root.
//!
//! They are in `tests/bench/certificates`, made once, because `ring` makes no RSA keys, and only for these
//! measurements, because the keys are public. The keys of the authorities were thrown away. With OpenSSL 3.0 it took
//!
//! ```text
//! openssl req -new -newkey rsa:2048 -noenc -keyout root.key -subj "/CN=Root of the benchmark" -out root.csr
//! openssl req -new -newkey rsa:2048 -noenc -keyout intermediate.key -subj "/CN=Intermediate of the benchmark" -out intermediate.csr
//! openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -keyout model.key -subj "/CN=Model" -out model.csr
//! openssl req -new -newkey rsa:2048 -noenc -keyout table.key -subj "/CN=Table" -out table.csr
//! openssl ca -config FILE -batch -notext -extensions root -selfsign -keyfile root.key -in root.csr -out root.pem
//! openssl ca -config FILE -batch -notext -extensions intermediate -cert root.pem -keyfile root.key -in intermediate.csr -out intermediate.pem
//! openssl ca -config FILE -batch -notext -extensions leaf -cert intermediate.pem -keyfile intermediate.key -in model.csr -out model.pem
//! openssl ca -config FILE -batch -notext -extensions leaf -cert intermediate.pem -keyfile intermediate.key -in table.csr -out table.pem
//! cat intermediate.pem >> model.pem
//! cat intermediate.pem >> table.pem
//! ```
//!
//! with SHA-256, from 2026 to 2126, and the extensions that RFC 5280 requires: `basicConstraints` and `keyCertSign` of
//! the authorities, `digitalSignature`, `serverAuth` and the names `localhost` and 127.0.0.1 of the servers.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use local_stack::Backends;
use local_stack::engine::{Engine, HISTORY_TABLE, Storage};
use local_stack::model::{ChatCompletions, Model};
use local_stack::upstream::Listening;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::shared::Failure;

/// An engine in memory with a table, and a model; both speak TLS.
///
/// # Errors
/// They cannot be started.
pub(crate) async fn start() -> Result<Backends, Failure> {
    let engine = Engine::start_at(listening("table")?, &Storage::Memory)?;
    engine.create_history_table(HISTORY_TABLE).await.map_err(|error| format!("there is no table: {error}"))?;
    let model = Model::serve(ChatCompletions::default(), listening("model")?)?;
    Ok(Backends { engine: Some(Arc::new(engine)), model: Some(Arc::new(model)) })
}

/// Makes the program trust their root.
pub(crate) fn trust(variables: &mut BTreeMap<String, OsString>) {
    variables.insert("AWS_CA_BUNDLE".to_owned(), path("root.pem").into());
}

fn listening(name: &str) -> Result<Listening, Failure> {
    let chain = CertificateDer::pem_file_iter(path(&format!("{name}.pem")))?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(path(&format!("{name}.key")))?;
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(Listening { tls: Some(Arc::new(config)), ..Listening::default() })
}

fn path(file: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/certificates").join(file)
}
