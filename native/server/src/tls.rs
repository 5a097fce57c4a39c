//! Certificates: read at each new connection, built anew when they changed.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::{Event, Pair, TlsSource};

#[derive(Eq, PartialEq)]
struct Material {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authorities: Option<Vec<u8>>,
}

/// The configuration for new connections.
pub(crate) struct Certificates {
    source: TlsSource,
    last: Material,
    config: Arc<ServerConfig>,
}

impl Certificates {
    /// Fails when there is nothing usable to begin with.
    pub(crate) fn load(source: TlsSource) -> io::Result<Self> {
        let last = read(&source)?;
        let config = build(&last)?;
        Ok(Self { source, last, config })
    }

    /// The files' present content; what cannot be read or used leaves the last in use.
    pub(crate) fn current(&mut self, events: &(dyn Fn(Event) + Send + Sync)) -> Arc<ServerConfig> {
        match read(&self.source) {
            Ok(found) if found == self.last => {}
            Ok(found) => match build(&found) {
                Ok(config) => {
                    self.config = config;
                    self.last = found;
                    events(Event::CertificateReloaded);
                }
                Err(error) => events(Event::CertificateUnreadable(error.to_string())),
            },
            Err(error) => events(Event::CertificateUnreadable(error.to_string())),
        }
        Arc::clone(&self.config)
    }
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
            let mut roots = RootCertStore::empty();
            for certificate in chain(pem)? {
                roots.add(certificate).map_err(io::Error::other)?;
            }
            if roots.is_empty() {
                return Err(io::Error::other("no PEM certificate of an authority"));
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().map_err(io::Error::other)?)
        }
    };
    let key = PrivateKeyDer::from_pem_slice(&material.key).map_err(io::Error::other)?;
    let mut config = builder.with_single_cert(chain(&material.certificate)?, key).map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

fn chain(pem: &[u8]) -> io::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(io::Error::other)
}
