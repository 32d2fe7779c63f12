//! Signatures of tokens by ring, the same cryptography as for TLS.

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, EncodingKey,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{ErrorKind, Result, new_error},
    signature::{Error, Signer, Verifier},
};
use ring::{
    hmac,
    signature::{self, UnparsedPublicKey, VerificationAlgorithm},
};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: signer,
    verifier_factory: verifier,
    // For JSON Web Key Sets, which are not supported.
    key_utils: KeyUtils::new_unimplemented(),
};

/// Installs ring as jsonwebtoken's provider. Must run before tokens are read or signed; calling it
/// again does nothing.
pub fn install() {
    // It fails if a provider is installed already; that is the same one.
    let _ = PROVIDER.install_default();
}

/// An algorithm and the bytes of its key.
struct Signatures {
    algorithm: Algorithm,
    key: Vec<u8>,
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    if algorithm.family() != key.family() {
        return Err(new_error(ErrorKind::InvalidAlgorithm));
    }
    Ok(Box::new(Signatures { algorithm: *algorithm, key: key.try_get_as_bytes()?.to_vec() }))
}

/// Signs by HMAC only: the server has no private keys for tokens.
fn signer(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    if algorithm.family() != AlgorithmFamily::Hmac || key.family() != AlgorithmFamily::Hmac {
        return Err(new_error(ErrorKind::UnsupportedAlgorithm));
    }
    Ok(Box::new(Signatures { algorithm: *algorithm, key: key.as_bytes().to_vec() }))
}

impl Signatures {
    fn hmac(&self) -> Option<hmac::Key> {
        let algorithm = match self.algorithm {
            Algorithm::HS256 => hmac::HMAC_SHA256,
            Algorithm::HS384 => hmac::HMAC_SHA384,
            Algorithm::HS512 => hmac::HMAC_SHA512,
            _ => return None,
        };
        Some(hmac::Key::new(algorithm, &self.key))
    }

    fn public(&self) -> Option<UnparsedPublicKey<&[u8]>> {
        let algorithm: &'static dyn VerificationAlgorithm = match self.algorithm {
            Algorithm::RS256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Algorithm::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Algorithm::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Algorithm::PS256 => &signature::RSA_PSS_2048_8192_SHA256,
            Algorithm::PS384 => &signature::RSA_PSS_2048_8192_SHA384,
            Algorithm::PS512 => &signature::RSA_PSS_2048_8192_SHA512,
            Algorithm::ES256 => &signature::ECDSA_P256_SHA256_FIXED,
            Algorithm::ES384 => &signature::ECDSA_P384_SHA384_FIXED,
            Algorithm::EdDSA => &signature::ED25519,
            _ => return None,
        };
        Some(UnparsedPublicKey::new(algorithm, &self.key))
    }
}

impl Verifier<Vec<u8>> for Signatures {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Error> {
        let verified = match (self.hmac(), self.public()) {
            (Some(key), _) => hmac::verify(&key, message, signature),
            (None, Some(key)) => key.verify(message, signature),
            (None, None) => return Err(Error::new()),
        };
        verified.map_err(|_| Error::new())
    }
}

impl Signer<Vec<u8>> for Signatures {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, Error> {
        let key = self.hmac().ok_or_else(Error::new)?;
        Ok(hmac::sign(&key, message).as_ref().to_vec())
    }
}

impl JwtVerifier for Signatures {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl JwtSigner for Signatures {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
