//! Finds names that occur twice in one JSON object of a token. Such tokens are refused, because two
//! parsers could each use a different value (RFC 7515, section 4; RFC 7519, section 4).

use std::{collections::HashSet, fmt};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// Returns the first name that occurs twice in one object of a token's header or claims, at any
/// depth. Parts that are not JSON are skipped here: decoding the token refuses them.
pub fn name(token: &str) -> Option<String> {
    token.split('.').take(2).find_map(|part| {
        let json = BASE64_URL_SAFE_NO_PAD.decode(part).ok()?;
        let mut found = None;
        let mut reader = serde_json::Deserializer::from_slice(&json);
        Search(&mut found).deserialize(&mut reader).ok()?;
        found
    })
}

/// Visits a JSON value of any type and stores the first repeated name.
struct Search<'a>(&'a mut Option<String>);

impl<'de> DeserializeSeed<'de> for Search<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Search<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            map.next_value_seed(Search(self.0))?;
            if let Some(name) = names.replace(name) {
                self.0.get_or_insert(name);
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Search(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}
