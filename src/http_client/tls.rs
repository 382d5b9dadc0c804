//! The cryptography that TLS uses: what servers on the public internet need, and nothing else. Only what is
//! listed here is in the binary.

use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::crypto::ring::cipher_suite::{
    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, TLS13_AES_128_GCM_SHA256,
    TLS13_AES_256_GCM_SHA384,
};
use rustls::crypto::ring::kx_group::{SECP256R1, SECP384R1, X25519};
use rustls::crypto::{
    CryptoProvider, GetRandomFailed, KeyProvider, SecureRandom, SupportedKxGroup, WebPkiSupportedAlgorithms,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::SigningKey;
use rustls::{Error, SupportedCipherSuite};
use webpki::ring as algorithm;

/// AES-128 goes first: most processors have instructions for SHA-256, which comes with it, and few for
/// SHA-384. `ChaCha20` is for processors without instructions for AES.
const CIPHER_SUITES: [SupportedCipherSuite; 6] = [
    TLS13_AES_128_GCM_SHA256,
    TLS13_AES_256_GCM_SHA384,
    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
];

/// The first message holds a key share for the first group. A server that wants another group costs a round
/// trip.
const KEY_EXCHANGES: [&dyn SupportedKxGroup; 3] = [X25519, SECP256R1, SECP384R1];

/// RSA and the curves P-256 and P-384, which publicly trusted certificates may use (CA/Browser Forum, Baseline
/// Requirements for TLS Server Certificates, section 7.1.3). Ed25519 is for private certificates.
static SIGNATURES: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[
        algorithm::ECDSA_P256_SHA256,
        algorithm::ECDSA_P256_SHA384,
        algorithm::ECDSA_P384_SHA256,
        algorithm::ECDSA_P384_SHA384,
        algorithm::ED25519,
        algorithm::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
        algorithm::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
        algorithm::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
        algorithm::RSA_PKCS1_2048_8192_SHA256,
        algorithm::RSA_PKCS1_2048_8192_SHA384,
        algorithm::RSA_PKCS1_2048_8192_SHA512,
        algorithm::RSA_PKCS1_2048_8192_SHA256_ABSENT_PARAMS,
        algorithm::RSA_PKCS1_2048_8192_SHA384_ABSENT_PARAMS,
        algorithm::RSA_PKCS1_2048_8192_SHA512_ABSENT_PARAMS,
    ],
    // TLS 1.2 does not fix the curve, so each hash has both curves.
    mapping: &[
        (SignatureScheme::ECDSA_NISTP256_SHA256, &[algorithm::ECDSA_P256_SHA256, algorithm::ECDSA_P384_SHA256]),
        (SignatureScheme::ECDSA_NISTP384_SHA384, &[algorithm::ECDSA_P384_SHA384, algorithm::ECDSA_P256_SHA384]),
        (SignatureScheme::ED25519, &[algorithm::ED25519]),
        (SignatureScheme::RSA_PSS_SHA256, &[algorithm::RSA_PSS_2048_8192_SHA256_LEGACY_KEY]),
        (SignatureScheme::RSA_PSS_SHA384, &[algorithm::RSA_PSS_2048_8192_SHA384_LEGACY_KEY]),
        (SignatureScheme::RSA_PSS_SHA512, &[algorithm::RSA_PSS_2048_8192_SHA512_LEGACY_KEY]),
        (SignatureScheme::RSA_PKCS1_SHA256, &[algorithm::RSA_PKCS1_2048_8192_SHA256]),
        (SignatureScheme::RSA_PKCS1_SHA384, &[algorithm::RSA_PKCS1_2048_8192_SHA384]),
        (SignatureScheme::RSA_PKCS1_SHA512, &[algorithm::RSA_PKCS1_2048_8192_SHA512]),
    ],
};

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: CIPHER_SUITES.to_vec(),
        kx_groups: KEY_EXCHANGES.to_vec(),
        signature_verification_algorithms: SIGNATURES,
        secure_random: &System,
        key_provider: &System,
    })
}

/// Where the provider gets random numbers and keys from.
#[derive(Debug)]
struct System;

impl SecureRandom for System {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), GetRandomFailed> {
        getrandom::fill(buffer).map_err(|_| GetRandomFailed)
    }
}

impl KeyProvider for System {
    /// Never called, because no client certificate is configured. This keeps the code that signs out of the
    /// binary.
    fn load_private_key(&self, _: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        Err(Error::General("client certificates are not supported".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;
    use std::time::Duration;

    use http::Request;
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls::crypto::ring;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
    use rustls::version::{TLS12, TLS13};
    use rustls::{CipherSuite, NamedGroup, ServerConfig, ServerConnection, SupportedProtocolVersion};

    use super::super::{Client, Roots};
    use super::*;

    /// The certificate and the key of a server, and the root that a client has to trust.
    struct Identity {
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        root: String,
    }

    /// With an ECDSA key, as the model's server has it.
    fn ecdsa() -> Identity {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der()).into();
        Identity { chain: vec![cert.der().clone()], key, root: cert.pem() }
    }

    /// With RSA keys in the whole chain, as the table's server has it.
    fn rsa() -> Identity {
        let chain = include_bytes!("../../tests/bench/certificates/table.pem");
        let key = include_bytes!("../../tests/bench/certificates/table.key");
        Identity {
            chain: CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().expect("PEM"),
            key: PrivateKeyDer::from_pem_slice(key).expect("PEM"),
            root: include_str!("../../tests/bench/certificates/root.pem").to_owned(),
        }
    }

    /// What the client and a server with this identity and provider, which speaks these versions, agree on.
    fn agreed(
        Identity { chain, key, root }: Identity,
        versions: &[&'static SupportedProtocolVersion],
        provider: CryptoProvider,
    ) -> (CipherSuite, NamedGroup) {
        let config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key))
            .expect("a configuration");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("https://localhost:{}/", listener.local_addr().expect("an address").port());
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut connection = ServerConnection::new(Arc::new(config)).expect("a connection");
            let mut tls = rustls::Stream::new(&mut connection, &mut stream);
            let (mut request, mut byte) = (Vec::new(), [0]);
            while !request.ends_with(b"\r\n\r\n") {
                tls.read_exact(&mut byte).expect("a request");
                request.push(byte[0]);
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
            tls.write_all(answer).expect("the client reads");
            let suite = connection.negotiated_cipher_suite().expect("a cipher suite").suite();
            (suite, connection.negotiated_key_exchange_group().expect("a key exchange").name())
        });
        let roots = Roots::from_pem(root.as_bytes()).expect("the certificate can be a root");
        let request = Request::get(&url).body(&b""[..]).expect("a request");
        Client::new(Some(&roots)).send(request, Duration::from_secs(20)).expect("an answer");
        server.join().expect("it does not panic")
    }

    #[test]
    fn servers_that_let_the_client_choose_and_servers_that_do_not_are_understood() {
        let all = ring::default_provider;
        let with_group = |group| CryptoProvider { kx_groups: vec![group], ..all() };
        let with_suite = |suite| CryptoProvider { cipher_suites: vec![suite], ..all() };
        let (aes_128, aes_256) = (CipherSuite::TLS13_AES_128_GCM_SHA256, CipherSuite::TLS13_AES_256_GCM_SHA384);
        assert_eq!(agreed(ecdsa(), &[&TLS13, &TLS12], all()), (aes_128, NamedGroup::X25519));
        assert_eq!(agreed(rsa(), &[&TLS13, &TLS12], all()), (aes_128, NamedGroup::X25519));
        assert_eq!(agreed(ecdsa(), &[&TLS13], with_group(SECP256R1)), (aes_128, NamedGroup::secp256r1));
        assert_eq!(agreed(ecdsa(), &[&TLS13], with_group(SECP384R1)), (aes_128, NamedGroup::secp384r1));
        assert_eq!(agreed(rsa(), &[&TLS13], with_suite(TLS13_AES_256_GCM_SHA384)), (aes_256, NamedGroup::X25519));
        let old = [
            (ecdsa(), CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
            (rsa(), CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
        ];
        for (identity, suite) in old {
            assert_eq!(agreed(identity, &[&TLS12], all()), (suite, NamedGroup::X25519));
        }
        let old = with_suite(TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384);
        let suite = CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384;
        assert_eq!(agreed(rsa(), &[&TLS12], old), (suite, NamedGroup::X25519));
    }
}
