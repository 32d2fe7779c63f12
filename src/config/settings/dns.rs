//! The settings of DNS-01: a provider that makes TXT records, and who is asked whether they are there.

use clap::Args;

use crate::config::dns::{ACME_DNS_WAIT, CLOUDFLARE_API_URL};

/// Named as lego names them, so that what is set for it works here.
#[derive(Args, Clone, Default)]
pub struct DnsSettings {
    /// Who makes TXT records: cloudflare, exec (a program) or httpreq (a server). Unset: the one
    /// whose settings are there
    #[arg(long, env, global = true, value_name = "NAME")]
    pub acme_dns: Option<String>,

    /// Name servers that are asked whether a TXT record is there, comma-separated, `address[:port]`.
    /// Unset: the zone's own
    #[arg(long, env, global = true, value_name = "ADDRS")]
    pub acme_dns_resolvers: Option<String>,

    /// How long a TXT record may take to be there, 1s to 10m
    #[arg(long, env, global = true, value_name = "TIME", default_value = ACME_DNS_WAIT)]
    pub acme_dns_wait: String,

    /// Cloudflare: API token that may edit the zone's DNS; it goes before a key
    #[arg(long, env, global = true, value_name = "TOKEN", hide_env_values = true)]
    pub cloudflare_dns_api_token: Option<String>,

    /// File that holds the API token, read again for each order
    #[arg(long, env, global = true, value_name = "FILE")]
    pub cloudflare_dns_api_token_file: Option<String>,

    /// Cloudflare: API token that may read the zone. Unset: the other token
    #[arg(long, env, global = true, value_name = "TOKEN", hide_env_values = true)]
    pub cloudflare_zone_api_token: Option<String>,

    /// File that holds it
    #[arg(long, env, global = true, value_name = "FILE")]
    pub cloudflare_zone_api_token_file: Option<String>,

    /// Cloudflare: the account's e-mail address, for the global API key
    #[arg(long, env, global = true, value_name = "ADDRESS")]
    pub cloudflare_email: Option<String>,

    /// File that holds it
    #[arg(long, env, global = true, value_name = "FILE")]
    pub cloudflare_email_file: Option<String>,

    /// Cloudflare: the account's global API key
    #[arg(long, env, global = true, value_name = "KEY", hide_env_values = true)]
    pub cloudflare_api_key: Option<String>,

    /// File that holds it, read again for each order
    #[arg(long, env, global = true, value_name = "FILE")]
    pub cloudflare_api_key_file: Option<String>,

    /// Where Cloudflare's API is
    #[arg(long, env, global = true, value_name = "URL", default_value = CLOUDFLARE_API_URL)]
    pub cloudflare_api_url: String,

    /// Program that is called with present|cleanup, the record's name and its value
    #[arg(long, env, global = true, value_name = "PROGRAM")]
    pub exec_path: Option<String>,

    /// RAW: it is called with present|cleanup, --, host, token and key authorization instead
    #[arg(long, env, global = true, value_name = "RAW")]
    pub exec_mode: Option<String>,

    /// Server that is sent POST /present and /cleanup with the record's name and value, JSON
    #[arg(long, env, global = true, value_name = "URL", hide_env_values = true)]
    pub httpreq_endpoint: Option<String>,

    /// RAW: it is sent host, token and key authorization instead
    #[arg(long, env, global = true, value_name = "RAW")]
    pub httpreq_mode: Option<String>,

    /// User name for that server
    #[arg(long, env, global = true, value_name = "NAME")]
    pub httpreq_username: Option<String>,

    /// File that holds it
    #[arg(long, env, global = true, value_name = "FILE")]
    pub httpreq_username_file: Option<String>,

    /// Password for that server
    #[arg(long, env, global = true, value_name = "PASSWORD", hide_env_values = true)]
    pub httpreq_password: Option<String>,

    /// File that holds it, read again for each order
    #[arg(long, env, global = true, value_name = "FILE")]
    pub httpreq_password_file: Option<String>,
}
