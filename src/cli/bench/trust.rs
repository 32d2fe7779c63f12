//! The certificates that viewers trust: those that browsers trust, one more root, or any.

use std::{path::PathBuf, sync::Arc};

use anyhow::Context;
use clap::Args;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

/// The trusted certificates, if a URL is https:// or wss://.
#[derive(Args)]
pub struct Trust {
    /// Trust any certificate
    #[arg(long)]
    insecure: bool,
    /// PEM file of a root certificate to trust in addition
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    ca: Option<PathBuf>,
}

impl Trust {
    /// The TLS configuration of a client.
    ///
    /// # Errors
    /// If the file of `--ca` cannot be read or has no valid certificate.
    pub fn config(&self) -> anyhow::Result<Arc<ClientConfig>> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone());
        let builder = builder.with_safe_default_protocol_versions()?;
        if self.insecure {
            let any = builder.dangerous().with_custom_certificate_verifier(Arc::new(Any(provider)));
            return Ok(Arc::new(any.with_no_client_auth()));
        }
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        if let Some(file) = &self.ca {
            let wrong = || format!("--ca {}: name a file of PEM certificates", file.display());
            for certificate in CertificateDer::pem_file_iter(file).with_context(wrong)? {
                roots.add(certificate.with_context(wrong)?).with_context(wrong)?;
            }
        }
        Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
    }
}

/// Accepts any certificate, as long as the server proves that it has the private key.
#[derive(Debug)]
struct Any(Arc<CryptoProvider>);

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
