//! Certificates and keys as files have them: PEM, and what people mistake for it.

use anyhow::{Context, bail, ensure};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

/// Some editors on Windows begin a file with it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The certificates of a file, in its order.
///
/// # Errors
/// The file is not valid PEM or has no certificate. The error says what it has instead.
pub fn certificates(file: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let file = without_mark(file);
    let chain: Vec<_> = CertificateDer::pem_slice_iter(file)
        .collect::<Result<_, _>>()
        .context("the certificate is not valid PEM")?;
    ensure!(!chain.is_empty(), "the certificate file holds no certificate in PEM{}", hint(file));
    Ok(chain)
}

/// The private key of a file.
///
/// # Errors
/// The file has no key, or one that needs a passphrase. The error says what it has instead.
pub fn private_key(file: &[u8]) -> anyhow::Result<PrivateKeyDer<'static>> {
    let file = without_mark(file);
    if has(file, "BEGIN ENCRYPTED PRIVATE KEY") || has(file, "Proc-Type: 4,ENCRYPTED") {
        bail!(
            "the key is encrypted, and the server knows no passphrase: decrypt it with \
             `openssl pkey -in KEY -out PLAIN_KEY`, and protect the file instead"
        );
    }
    PrivateKeyDer::from_pem_slice(file)
        .with_context(|| format!("the key file holds no key in PEM{}", hint(file)))
}

fn without_mark(file: &[u8]) -> &[u8] {
    file.strip_prefix(BYTE_ORDER_MARK).unwrap_or(file)
}

/// What a file seems to be that holds nothing of use.
fn hint(file: &[u8]) -> &'static str {
    // DER begins with a sequence whose length has one to three bytes.
    if let [0x30, 0x80..=0x83, ..] = file {
        "; it seems to be DER or PKCS 12: convert it with `openssl x509 -inform der`, \
         `openssl pkey -inform der` or `openssl pkcs12 -nodes`"
    } else if has(file, "BEGIN TRUSTED CERTIFICATE") {
        "; it holds a `TRUSTED CERTIFICATE`: convert it with `openssl x509 -in FILE`"
    } else if has(file, "BEGIN CERTIFICATE REQUEST") {
        "; it holds a request for a certificate, which an authority has to sign"
    } else if has(file, "PRIVATE KEY") {
        "; it holds a key"
    } else if has(file, "BEGIN CERTIFICATE") {
        "; it holds a certificate"
    } else {
        ""
    }
}

fn has(file: &[u8], text: &str) -> bool {
    file.windows(text.len()).any(|part| part == text.as_bytes())
}
