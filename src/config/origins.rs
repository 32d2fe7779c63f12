//! Origins of pages, and the patterns of `ALLOWED_ORIGINS`.

use std::fmt;

use url::Url;

/// The origin of a page, as browsers send it in the header `Origin`.
#[derive(Clone, Debug, PartialEq)]
pub struct Origin {
    /// Scheme in lower case, such as `https`.
    pub scheme: String,
    /// Host in lower case; an internationalized name is in Punycode.
    pub host: String,
    /// Port; `None` = the scheme's default port.
    pub port: Option<u16>,
}

impl Origin {
    /// Parses an origin. `None` for anything else: a URL with a path, a query, a fragment or
    /// credentials, or the text `null`, which browsers send for opaque origins.
    pub fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let bare = url.username().is_empty()
            && url.password().is_none()
            && matches!(url.path(), "" | "/")
            && url.query().is_none()
            && url.fragment().is_none();
        let host = url.host_str().filter(|host| bare && !host.is_empty())?.to_ascii_lowercase();
        Some(Self { scheme: url.scheme().to_owned(), host, port: url.port() })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// A pattern of origins that may connect besides the server's own origin.
#[derive(Clone, Debug, PartialEq)]
pub enum AllowedOrigin {
    /// `*`: every origin, except for the opaque `null`.
    Any,
    /// Exactly this origin.
    One(Origin),
    /// `https://*.example.com`: the same scheme and port, and a host below this one at any depth.
    Below(Origin),
}

impl AllowedOrigin {
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        match text.split_once("://*.") {
            Some((scheme, host)) => Origin::parse(&format!("{scheme}://{host}")).map(Self::Below),
            None => Origin::parse(text).map(Self::One),
        }
        .filter(|allowed| !matches!(allowed, Self::One(one) | Self::Below(one) if one.host.contains('*')))
    }

    /// Whether a page of this origin may connect.
    pub fn allows(&self, origin: &Origin) -> bool {
        match self {
            Self::Any => true,
            Self::One(one) => one == origin,
            Self::Below(top) => {
                let below = origin.host.strip_suffix(&top.host);
                let below = below.and_then(|label| label.strip_suffix('.'));
                below.is_some_and(|label| !label.is_empty())
                    && (&top.scheme, top.port) == (&origin.scheme, origin.port)
            }
        }
    }
}

impl fmt::Display for AllowedOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::One(origin) => origin.fmt(f),
            Self::Below(top) => {
                let Origin { scheme, host, port } = top.clone();
                Origin { scheme, host: format!("*.{host}"), port }.fmt(f)
            }
        }
    }
}

/// Parses comma-separated patterns of origins.
pub(super) fn origins(text: &str) -> Result<Vec<AllowedOrigin>, String> {
    let origins = text.split(',').map(str::trim).filter(|text| !text.is_empty());
    origins
        .map(|text| {
            AllowedOrigin::parse(text).ok_or_else(|| {
                format!("`{text}` is not an origin; write e.g. https://app.example.com or https://*.example.com, or * for all")
            })
        })
        .collect()
}
