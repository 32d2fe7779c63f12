//! Parameters in the query of a request.

use axum::http::StatusCode;

/// A query parameter that is a number; `None` if there is none. A number that is too large is the
/// largest one.
///
/// # Errors
/// The answer 400 if it is no whole number.
pub fn whole_number(name: &str, text: Option<&str>) -> Result<Option<usize>, (StatusCode, String)> {
    match text.map(str::trim) {
        None | Some("") => Ok(None),
        Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            Ok(Some(text.parse().unwrap_or(usize::MAX)))
        }
        Some(_) => {
            let text = format!("{name} must be a whole number, 0 or more\n");
            Err((StatusCode::BAD_REQUEST, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_a_number_or_refused() {
        let table = [
            (None, Some(None)),
            (Some(""), Some(None)),
            (Some("7"), Some(Some(7))),
            (Some("99999999999999999999"), Some(Some(usize::MAX))),
            (Some("-1"), None),
            (Some("abc"), None),
        ];
        for (text, expected) in table {
            assert_eq!(whole_number("last", text).ok(), expected, "{text:?}");
        }
    }
}
