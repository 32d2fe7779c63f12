//! Origins of pages, and patterns that allow some of them.

use std::fmt;

use url::Url;

/// Where a page is from, as browsers tell it by the header `Origin`.
#[derive(Clone, Debug, PartialEq)]
pub struct Origin {
    /// Such as `https`.
    pub scheme: String,
    /// In small letters; names outside of ASCII in Punycode.
    pub host: String,
    /// `None` = the scheme's usual one.
    pub port: Option<u16>,
}

impl Origin {
    /// An origin, and nothing more than that; `null` is none.
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

/// Origins that may connect besides our own.
#[derive(Clone, Debug, PartialEq)]
pub enum AllowedOrigin {
    /// Every one that has a name: `*`.
    Any,
    /// This one.
    One(Origin),
    /// Those of hosts below this one: `https://*.example.com`.
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

    /// Whether a page from there may connect.
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

/// Allowed origins, comma-separated.
pub(super) fn origins(text: &str) -> Result<Vec<AllowedOrigin>, String> {
    let origins = text.split(',').map(str::trim).filter(|text| !text.is_empty());
    origins
        .map(|text| {
            AllowedOrigin::parse(text).ok_or_else(|| {
                format!("`{text}` is no origin; write e.g. https://app.example.com or https://*.example.com, or * for all")
            })
        })
        .collect()
}
