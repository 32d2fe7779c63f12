//! Redis' glob patterns, byte by byte.

/// A compiled pattern, by the rules of `PSUBSCRIBE`.
///
/// `*` matches any run of bytes, `?` one byte, `[abc]`, `[a-z]` and `[z-a]` one byte of a class,
/// `[^a]` one byte outside of it, and `\x` the byte `x` itself, inside a class too. Undocumented
/// behaviour of Redis is included: the end of the pattern closes an open class, `[]` matches
/// nothing and `[^]` any byte, a `\` at the very end stands for itself, and an empty text matches
/// only the empty pattern, not `*`.
///
/// Bytes are unsigned in ranges. Redis differs where C's `char` is signed: there it reverses a
/// range from an ASCII byte to one above 0x7f.
#[derive(Clone, Debug, PartialEq)]
pub struct Pattern(Box<[Element]>);

/// What one part of a pattern matches.
#[derive(Clone, Debug, PartialEq)]
enum Element {
    /// Any run of bytes.
    Star,
    /// Any byte.
    Any,
    /// This byte.
    Byte(u8),
    /// A byte of this class.
    Class(Box<ByteClass>),
}

/// Whether `text` as a whole matches `pattern`. For a pattern that is used once.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    Pattern::new(pattern).matches(text)
}

impl Pattern {
    /// Compiles a pattern. Every text is a pattern.
    pub fn new(mut pattern: &[u8]) -> Self {
        let mut elements = Vec::with_capacity(pattern.len());
        while let Some((&first, rest)) = pattern.split_first() {
            let (element, rest) = match (first, rest) {
                (b'*', rest) => (Element::Star, rest),
                (b'?', rest) => (Element::Any, rest),
                (b'[', rest) => {
                    let (class, rest) = ByteClass::read(rest);
                    (Element::Class(Box::new(class)), rest)
                }
                (b'\\', [literal, rest @ ..]) => (Element::Byte(*literal), rest),
                (literal, rest) => (Element::Byte(literal), rest),
            };
            pattern = rest;
            // Several stars in a row match what one does.
            if element != Element::Star || elements.last() != Some(&Element::Star) {
                elements.push(element);
            }
        }
        Self(elements.into())
    }

    /// The number of stars, several in a row counting as one.
    pub fn stars(&self) -> usize {
        self.0.iter().filter(|element| **element == Element::Star).count()
    }

    /// Whether `text` as a whole matches. Takes at most as many steps as the product of both lengths,
    /// and allocates nothing.
    pub fn matches(&self, text: &[u8]) -> bool {
        if text.is_empty() {
            return self.0.is_empty();
        }
        let (mut pattern, mut text) = (&*self.0, text);
        // The pattern after the latest star, and the text that this star has not consumed yet.
        // Backtracking to the latest star is enough: if no position matches the pattern after it,
        // extending an earlier star does not help either.
        let mut retry: Option<(&[Element], &[u8])> = None;
        while let Some((&byte, text_rest)) = text.split_first() {
            match pattern {
                [Element::Star] => return true,
                [Element::Star, rest @ ..] => {
                    pattern = rest;
                    retry = Some((pattern, text));
                }
                [element, rest @ ..] if element.matches(byte) => {
                    (pattern, text) = (rest, text_rest)
                }
                _ => {
                    let Some((after_star, [_, swallowed @ ..])) = retry else { return false };
                    (pattern, text) = (after_star, swallowed);
                    retry = Some((pattern, text));
                }
            }
        }
        pattern.iter().all(|element| *element == Element::Star)
    }
}

impl Element {
    /// Whether it matches this byte alone. A star does not.
    fn matches(&self, byte: u8) -> bool {
        match self {
            Self::Star => false,
            Self::Any => true,
            Self::Byte(own) => *own == byte,
            Self::Class(class) => class.has(byte),
        }
    }
}

/// A set of bytes: one bit for each.
#[derive(Clone, Debug, Default, PartialEq)]
struct ByteClass([u64; 4]);

impl ByteClass {
    /// Reads a class and returns the pattern after its `]`. `pattern` starts after the `[`.
    fn read(pattern: &[u8]) -> (Self, &[u8]) {
        let (is_negated, mut pattern) = match pattern {
            [b'^', rest @ ..] => (true, rest),
            rest => (false, rest),
        };
        let mut class = Self::default();
        loop {
            // The order of these arms is Redis': `]` closes the class even as its first byte, and
            // `a-]` is a range that includes the bracket.
            pattern = match pattern {
                [] => return (class.negated(is_negated), pattern),
                [b'\\', literal, rest @ ..] => {
                    class.add(*literal);
                    rest
                }
                [b']', rest @ ..] => return (class.negated(is_negated), rest),
                [from, b'-', to, rest @ ..] => {
                    (*from.min(to)..=*from.max(to)).for_each(|byte| class.add(byte));
                    rest
                }
                [literal, rest @ ..] => {
                    class.add(*literal);
                    rest
                }
            };
        }
    }

    fn add(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }

    fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] & 1 << (byte & 63) != 0
    }

    fn negated(self, is_negated: bool) -> Self {
        if is_negated { Self(self.0.map(|bits| !bits)) } else { self }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Pattern, matches};

    /// A slow and obvious reference: tries every length for each star.
    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], _) => text.is_empty(),
            ([b'*', rest @ ..], _) => (0..=text.len()).any(|taken| naive(rest, &text[taken..])),
            (_, []) => false,
            ([b'[', ..], [byte, text @ ..]) => {
                let (hit, rest) = in_class(&pattern[1..], *byte);
                hit && naive(rest, text)
            }
            ([b'?', rest @ ..], [_, text @ ..]) => naive(rest, text),
            ([b'\\', literal, rest @ ..] | [literal, rest @ ..], [byte, text @ ..]) => {
                literal == byte && naive(rest, text)
            }
        }
    }

    /// Whether a class has a byte, without a table.
    fn in_class(pattern: &[u8], byte: u8) -> (bool, &[u8]) {
        let (is_negated, mut rest) = match pattern {
            [b'^', rest @ ..] => (true, rest),
            rest => (false, rest),
        };
        let mut hit = false;
        loop {
            rest = match rest {
                [] => return (hit != is_negated, rest),
                [b'\\', literal, rest @ ..] => {
                    hit |= *literal == byte;
                    rest
                }
                [b']', rest @ ..] => return (hit != is_negated, rest),
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

    #[test]
    fn stars_in_a_row_count_as_one() {
        assert_eq!(Pattern::new(b"a***b*\\*[*]*").stars(), 3);
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
