//! Matches Redis' glob patterns byte by byte.

/// Whether `text` as a whole matches `pattern`, by the rules of `PSUBSCRIBE`.
///
/// `*` matches any run of bytes, `?` one byte, `[abc]`, `[a-z]` and `[z-a]` one byte of a class,
/// `[^a]` one byte outside of it, and `\x` the byte `x` itself, inside a class too. Undocumented
/// behaviour of Redis is included: the end of the pattern closes an open class, `[]` matches
/// nothing and `[^]` any byte, a `\` at the very end stands for itself, and an empty text matches
/// only the empty pattern, not `*`.
///
/// Bytes are unsigned in ranges. Redis differs where C's `char` is signed: there it reverses a
/// range from an ASCII byte to one above 0x7f. Takes at most `pattern.len() * text.len()` steps and
/// allocates nothing.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    if text.is_empty() {
        return pattern.is_empty();
    }
    let (mut pattern, mut text) = (pattern, text);
    // The pattern after the latest star, and the text that this star has not consumed yet.
    // Backtracking to the latest star is enough: if no position matches the pattern after it,
    // extending an earlier star does not help either.
    let mut retry: Option<(&[u8], &[u8])> = None;
    while let Some((&byte, text_rest)) = text.split_first() {
        if let [b'*', rest @ ..] = pattern {
            if rest.is_empty() {
                return true;
            }
            pattern = rest;
            retry = Some((pattern, text));
        } else if let Some(rest) = one(pattern, byte) {
            (pattern, text) = (rest, text_rest);
        } else if let Some((after_star, [_, swallowed @ ..])) = retry {
            (pattern, text) = (after_star, swallowed);
            retry = Some((pattern, text));
        } else {
            return false;
        }
    }
    pattern.iter().all(|&byte| byte == b'*')
}

/// The rest of `pattern` if its first element, which is not a star, matches `byte`; otherwise
/// `None`.
fn one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    let (hit, rest) = match pattern {
        [] => return None,
        [b'?', rest @ ..] => (true, rest),
        [b'[', rest @ ..] => class(rest, byte),
        [b'\\', literal, rest @ ..] | [literal, rest @ ..] => (*literal == byte, rest),
    };
    hit.then_some(rest)
}

/// Whether a class matches `byte`, and the pattern after its `]`. `pattern` starts after the `[`.
fn class(pattern: &[u8], byte: u8) -> (bool, &[u8]) {
    let (negated, mut pattern) = match pattern {
        [b'^', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let mut hit = false;
    loop {
        // The order of these arms is Redis': `]` closes the class even as its first byte, and `a-]`
        // is a range that includes the bracket.
        pattern = match pattern {
            [] => return (hit != negated, pattern),
            [b'\\', literal, rest @ ..] => {
                hit |= *literal == byte;
                rest
            }
            [b']', rest @ ..] => return (hit != negated, rest),
            [from, b'-', to, rest @ ..] => {
                hit |= (*from.min(to)..=*from.max(to)).contains(&byte);
                rest
            }
            [literal, rest @ ..] => {
                hit |= *literal == byte;
                rest
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{matches, one};

    /// A slow and obvious reference: tries every length for each star.
    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], _) => text.is_empty(),
            ([b'*', rest @ ..], _) => (0..=text.len()).any(|taken| naive(rest, &text[taken..])),
            (_, []) => false,
            (_, [byte, text @ ..]) => one(pattern, *byte).is_some_and(|rest| naive(rest, text)),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_reference_that_tries_everything(
            pattern in "[ab*?\\[\\]^\\\\-]{0,10}",
            text in "[ab*\\]^-]{1,8}",
        ) {
            let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
            prop_assert_eq!(matches(pattern, text), naive(pattern, text));
        }

        #[test]
        fn any_bytes_are_matched_without_a_panic(
            pattern in proptest::collection::vec(any::<u8>(), 0..64),
            text in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            matches(&pattern, &text);
        }

        #[test]
        fn a_text_with_every_byte_escaped_matches_itself(
            text in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let pattern: Vec<u8> = text.iter().flat_map(|byte| [b'\\', *byte]).collect();
            prop_assert!(matches(&pattern, &text));
        }
    }

    #[test]
    fn follows_redis() {
        let table: &[(&str, &str, bool)] = &[
            ("", "", true),
            ("", "a", false),
            ("a", "", false),
            ("*", "", false),
            ("*", "a", true),
            ("**", "ab", true),
            ("a*", "a", true),
            ("a***", "a", true),
            ("*a", "ba", true),
            ("*a", "ab", false),
            ("a*c", "abbc", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXcYb", false),
            ("?", "a", true),
            ("?", "ab", false),
            ("*?", "a", true),
            ("*??", "a", false),
            ("h[ae]llo", "hello", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("h[a-c]llo", "hdllo", false),
            ("[!a]", "!", true),
            ("[]", "]", false),
            ("[]a]", "a]", false),
            ("[^]", "a", true),
            ("[^]a", "ba", true),
            ("[", "[", false),
            ("[", "a", false),
            ("[^", "a", true),
            ("[^", "ab", false),
            ("[ab", "b", true),
            ("[a-", "-", true),
            ("[a-]", "]", true),
            ("[a-]", "_", true),
            ("[a-]x", "ax", false),
            ("[-a]", "-", true),
            ("[a\\]b]", "]", true),
            ("[\\]", "]", true),
            ("[\\", "\\", true),
            ("[\\a-c]", "b", false),
            ("[\\a-c]", "-", true),
            ("[a-\\]", "\\", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("\\a", "a", true),
            ("\\", "\\", true),
            ("\\\\", "\\", true),
            ("a\\", "a\\", true),
            ("device??:*", "device01:temp", true),
            ("news.*", "news.", true),
            ("A", "a", false),
        ];
        for (pattern, text, expected) in table {
            let found = matches(pattern.as_bytes(), text.as_bytes());
            assert_eq!(found, *expected, "{pattern:?} on {text:?}");
        }
    }

    #[test]
    fn bytes_need_not_be_utf8() {
        assert!(matches(b"\xff[\x80-\xff]?", b"\xff\x90\x00"));
        assert!(matches("h?*llo".as_bytes(), "hällo".as_bytes()));
    }

    #[test]
    fn many_stars_do_not_take_exponential_time() {
        let text = vec![b'a'; 2_000];
        let stars = b"a*".repeat(200);
        assert!(!matches(&[&stars[..], b"b"].concat(), &text));
        assert!(matches(&[&stars[..], b"a"].concat(), &text));
    }
}
