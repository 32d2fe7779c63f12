//! The settings of DNS-01: the provider that creates TXT records, and the name servers that are
//! asked whether a record is published.
//!
//! The doc comments of the fields are the text of `--help`.

use clap::Args;

use crate::config::dns::{ACME_DNS_WAIT, CLOUDFLARE_API_URL};

/// The settings of DNS-01. The ones of providers have the names that lego gives them, so that an
/// environment made for lego works here.
#[derive(Args, Clone, Default)]
pub struct DnsSettings {
    /// Provider that creates TXT records: cloudflare, exec (a program) or httpreq (a server).
    /// Unset: the provider whose settings are set
    #[arg(long, env, global = true, value_name = "NAME")]
    pub acme_dns: Option<String>,

    /// Name servers that are asked whether a TXT record is published, comma-separated,
    /// `address[:port]`. Unset: the zone's own name servers
    #[arg(long, env, global = true, value_name = "ADDRS")]
    pub acme_dns_resolvers: Option<String>,

    /// How long the server waits until a TXT record is published, 1s to 10m
    #[arg(long, env, global = true, value_name = "TIME", default_value = ACME_DNS_WAIT)]
    pub acme_dns_wait: String,

    /// Cloudflare: API token that may edit the zone's DNS; it takes precedence over the global API
    /// key
    #[arg(long, env, global = true, value_name = "TOKEN", hide_env_values = true)]
    pub cloudflare_dns_api_token: Option<String>,

    /// File that holds the API token; read again for each order
    #[arg(long, env, global = true, value_name = "FILE")]
    pub cloudflare_dns_api_token_file: Option<String>,

    /// Cloudflare: API token that may read the zone. Unset: the token that may edit its DNS
    #[arg(long, env, global = true, value_name = "TOKEN", hide_env_values = true)]
    pub cloudflare_zone_api_token: Option<String>,

    /// File that holds the token that may read the zone; read again for each order
    #[arg(long, env, global = true, value_name = "FILE")]
    pub cloudflare_zone_api_token_file: Option<String>,

    /// Cloudflare: the account's e-mail address, for the global API key
    #[arg(long, env, global = true, value_name = "ADDRESS")]
    pub cloudflare_email: Option<String>,

    /// File that holds the e-mail address; read again for each order
    #[arg(long, env, global = true, value_name = "FILE")]
    pub cloudflare_email_file: Option<String>,

    /// Cloudflare: the account's global API key
    #[arg(long, env, global = true, value_name = "KEY", hide_env_values = true)]
    pub cloudflare_api_key: Option<String>,

    /// File that holds the global API key; read again for each order
    #[arg(long, env, global = true, value_name = "FILE")]
    pub cloudflare_api_key_file: Option<String>,

    /// URL of Cloudflare's API
    #[arg(long, env, global = true, value_name = "URL", default_value = CLOUDFLARE_API_URL)]
    pub cloudflare_api_url: String,

    /// exec: program that is called with present|cleanup, the record's name and its value
    #[arg(long, env, global = true, value_name = "PROGRAM")]
    pub exec_path: Option<String>,

    /// exec: RAW calls the program with present|cleanup, --, host, token and key authorization
    /// instead
    #[arg(long, env, global = true, value_name = "RAW")]
    pub exec_mode: Option<String>,

    /// httpreq: URL of the server that gets POST /present and /cleanup with the record's name and
    /// value as JSON
    #[arg(long, env, global = true, value_name = "URL", hide_env_values = true)]
    pub httpreq_endpoint: Option<String>,

    /// httpreq: RAW sends host, token and key authorization instead
    #[arg(long, env, global = true, value_name = "RAW")]
    pub httpreq_mode: Option<String>,

    /// httpreq: user name for the server
    #[arg(long, env, global = true, value_name = "NAME")]
    pub httpreq_username: Option<String>,

    /// File that holds the user name; read again for each order
    #[arg(long, env, global = true, value_name = "FILE")]
    pub httpreq_username_file: Option<String>,

    /// httpreq: password for the server
    #[arg(long, env, global = true, value_name = "PASSWORD", hide_env_values = true)]
    pub httpreq_password: Option<String>,

    /// File that holds the password; read again for each order
    #[arg(long, env, global = true, value_name = "FILE")]
    pub httpreq_password_file: Option<String>,
}
