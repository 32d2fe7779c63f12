//! `roomcast token`: prints a JWT that is signed with JWT_SECRET, and a link that opens the page
//! with it.

use std::{process::ExitCode, time::Duration};

use anyhow::Context;
use clap::Args;
use roomcast::{
    auth::{Claims, sign},
    config::{Config, ListenAddr},
    glob::matches,
};
use url::Url;

/// Characters that make a room's name a glob pattern.
const GLOB: [char; 4] = ['*', '?', '[', '\\'];

/// Print a token that is signed with JWT_SECRET, and a link that opens the page with it
#[derive(Args)]
pub struct Token {
    /// Pattern of rooms that the token allows to watch, such as 'device:*'; may be repeated
    #[arg(long = "room", value_name = "PATTERN")]
    rooms: Vec<String>,
    /// Pattern of channels that the token allows to publish on; may be repeated
    #[arg(long, value_name = "PATTERN")]
    publish: Vec<String>,
    /// How long the token is valid, such as 90s, 1h or 30days
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// URL of the page for the link, if it differs from the server's own, as behind a proxy
    #[arg(long, value_name = "URL")]
    page: Option<Url>,
}

impl Token {
    /// Prints the token to standard output, for programs, and the link to standard error, for
    /// people.
    ///
    /// # Errors
    /// JWT_SECRET is not set, or the token would allow nothing.
    pub fn run(self, config: &Config) -> anyhow::Result<ExitCode> {
        let tokens = config.tokens.as_ref().context(
            "there is no key to sign with; set JWT_SECRET to the same secret as in the server (openssl rand -hex 32 makes a new one)",
        )?;
        let link = self.link(config)?;
        let Self { rooms, publish, ttl, page: _ } = self;
        anyhow::ensure!(
            !rooms.is_empty() || !publish.is_empty(),
            "the token would allow nothing; name patterns with --room or --publish"
        );
        let token = sign(tokens, &Claims { rooms: rooms.clone(), publish: publish.clone(), ttl })?;
        println!("{token}");
        if let Some(link) = link {
            // A link is passed on more easily than a token, so it only lets watch.
            let watching = if publish.is_empty() {
                token
            } else {
                sign(tokens, &Claims { rooms, publish: Vec::new(), ttl })?
            };
            eprintln!("{link}#token={watching}");
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The page's URL with the rooms that are not patterns, or else with one that a pattern allows;
    /// `None` if the token allows no room.
    fn link(&self, config: &Config) -> anyhow::Result<Option<Url>> {
        if self.rooms.is_empty() {
            return Ok(None);
        }
        let mut link = match &self.page {
            Some(page) => page.clone(),
            None => own_page(config).parse()?,
        };
        let exact = self.rooms.iter().filter(|room| !room.contains(GLOB));
        let mut rooms: Vec<_> = exact.cloned().collect();
        if rooms.is_empty() {
            rooms.extend(self.rooms.iter().find_map(|pattern| example(pattern)));
        }
        if !rooms.is_empty() {
            link.query_pairs_mut().extend_pairs(rooms.iter().map(|room| ("room", room)));
        }
        Ok(Some(link))
    }
}

/// A room that a pattern allows, such as `device:01` for `device:*`; `None` if none is obvious.
fn example(pattern: &str) -> Option<String> {
    let mut room = String::new();
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        match character {
            '*' if pattern == "*" => room.push_str("device01"),
            '*' => room.push_str("01"),
            '?' => room.push('1'),
            '\\' => room.extend(characters.next()),
            '[' => {
                room.extend(characters.next());
                characters.find(|&character| character == ']');
            }
            _ => room.push(character),
        }
    }
    matches(pattern.as_bytes(), room.as_bytes()).then_some(room)
}

/// The URL at which the server with this configuration serves its page.
fn own_page(config: &Config) -> String {
    let ListenAddr { host, port } = &config.http_addr;
    let public_port = config.https.as_ref().and_then(|https| https.public_port);
    match (config.hosts.first(), host.as_deref()) {
        (Some(host), _) => match public_port {
            None | Some(443) => format!("https://{host}/"),
            Some(port) => format!("https://{host}:{port}/"),
        },
        (None, None | Some("0.0.0.0" | "::")) => format!("http://localhost:{port}/"),
        (None, Some(_)) => format!("http://{}/", config.http_addr),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_names_a_room_that_a_pattern_allows() {
        for (pattern, room) in [
            ("*", Some("device01")),
            ("device:*", Some("device:01")),
            ("hall/?/[a-c]x", Some("hall/1/ax")),
            ("odd\\*name*", Some("odd*name01")),
            ("[]", None),
        ] {
            assert_eq!(example(pattern).as_deref(), room, "{pattern}");
        }
    }
}
