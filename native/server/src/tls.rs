//! Certificates: read at each new connection, by a thread that may wait for files; built anew when they changed.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::limits::{READ_CERTIFICATE, TLS_UNSENT};
use crate::{Event, Pair, TlsSource};

#[derive(Eq, PartialEq)]
struct Material {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authorities: Option<Vec<u8>>,
}

struct Used {
    material: Material,
    config: Arc<ServerConfig>,
}

/// The configuration for new connections.
pub(crate) struct Certificates {
    source: TlsSource,
    used: Mutex<Used>,
    /// Held by whoever reads the files.
    reading: Mutex<()>,
}

impl Certificates {
    /// Fails when there is nothing usable to begin with.
    pub(crate) fn load(source: TlsSource) -> io::Result<Self> {
        let material = read(&source)?;
        let config = build(&material)?;
        Ok(Self { source, used: Mutex::new(Used { material, config }), reading: Mutex::new(()) })
    }

    /// The files' present content; what cannot be read, in time, or used, leaves the last in use.
    pub(crate) async fn current(self: &Arc<Self>, events: &Arc<dyn Fn(Event) + Send + Sync>) -> Arc<ServerConfig> {
        let files = matches!(self.source.pair, Pair::Folder(_)) || self.source.client_ca.is_some();
        if files && self.reading.try_lock().is_ok() {
            let (certificates, events) = (Arc::clone(self), Arc::clone(events));
            let looking = spawn_blocking(move || certificates.look(&*events));
            let _ = timeout(READ_CERTIFICATE, looking).await;
        }
        Arc::clone(&self.used().config)
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self, events: &(dyn Fn(Event) + Send + Sync)) {
        let Ok(_reading) = self.reading.try_lock() else { return };
        let found = match read(&self.source) {
            Ok(found) if found == self.used().material => return,
            Ok(found) => found,
            Err(error) => return events(Event::CertificateUnreadable(error.to_string())),
        };
        match build(&found) {
            Ok(config) => {
                *self.used() = Used { material: found, config };
                events(Event::CertificateReloaded);
            }
            Err(error) => events(Event::CertificateUnreadable(error.to_string())),
        }
    }
}

/// TLS keeps no more of what the client does not take than is counted for it.
pub(crate) fn bound(session: &mut ServerConnection) {
    session.set_buffer_limit(Some(TLS_UNSENT));
}

fn read(source: &TlsSource) -> io::Result<Material> {
    let (certificate, key) = match &source.pair {
        Pair::Given { certificate, key } => (certificate.clone(), key.clone()),
        Pair::Folder(folder) => (file(&folder.join("tls.crt"))?, file(&folder.join("tls.key"))?),
    };
    let authorities = source.client_ca.as_deref().map(file).transpose()?;
    Ok(Material { certificate, key, authorities })
}

fn file(path: &Path) -> io::Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn build(material: &Material) -> io::Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let builder = match &material.authorities {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let roots = authorities(pem)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().map_err(io::Error::other)?)
        }
    };
    let unusable =
        |what: &str, error: &dyn std::fmt::Display| io::Error::other(format!("{what} cannot be used: {error}"));
    let key = PrivateKeyDer::from_pem_slice(&material.key).map_err(|error| unusable("tls.key", &error))?;
    let certificates = chain(&material.certificate)?;
    if certificates.is_empty() {
        return Err(io::Error::other("tls.crt has no PEM certificate"));
    }
    let mut config =
        builder.with_single_cert(certificates, key).map_err(|error| unusable("tls.crt with tls.key", &error))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// Certificates that cannot be used are left out: a bundle has some of each kind.
fn authorities(pem: &[u8]) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(chain(pem)?);
    if roots.is_empty() {
        Err(io::Error::other("the file of --client-ca has no usable PEM certificate of an authority"))
    } else {
        Ok(roots)
    }
}

fn chain(pem: &[u8]) -> io::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use rustls::server::{ClientHello, ResolvesServerCert};
    use rustls::sign::CertifiedKey;

    use super::*;

    #[derive(Debug)]
    struct Nobody;

    impl ResolvesServerCert for Nobody {
        fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            None
        }
    }

    #[test]
    fn no_more_waits_in_tls_than_is_counted() {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = builder.with_no_client_auth().with_cert_resolver(Arc::new(Nobody));
        let mut session = ServerConnection::new(Arc::new(config)).unwrap();
        bound(&mut session);
        assert_eq!(session.writer().write(&[0; 4 * TLS_UNSENT]).unwrap(), TLS_UNSENT);
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let told = |certificate: &[u8], key: &[u8]| {
            let material = Material { certificate: certificate.to_vec(), key: key.to_vec(), authorities: None };
            build(&material).err().unwrap().to_string()
        };
        let key = b"-----BEGIN PRIVATE KEY-----\nMAMCAQE=\n-----END PRIVATE KEY-----\n";
        assert!(told(b"junk", key).contains("tls.crt has no PEM certificate"));
        assert!(
            told(include_bytes!("../tests/kit/authority.pem"), key).contains("tls.crt with tls.key cannot be used")
        );
        assert!(told(b"junk", b"junk").contains("tls.key cannot be used"));
    }

    #[test]
    fn one_odd_authority_does_not_lock_out_the_others() {
        let good = include_bytes!("../tests/kit/authority.pem");
        let odd = b"-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n";
        assert_eq!(authorities(&[&odd[..], good].concat()).unwrap().len(), 1);
        assert!(authorities(odd).is_err());
        assert!(authorities(b"").is_err());
    }
}
