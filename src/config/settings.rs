//! All flags and environment variables of the server, as unparsed text; [`super::Config`] is the
//! validated form.
//!
//! The doc comments of the fields are the text of `--help`.

use clap::Args;

mod dns;

pub use dns::DnsSettings;

/// The settings, each of them a flag and an environment variable. An empty value counts as unset.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Settings")]
pub struct Settings {
    /// Address for plain HTTP, `host:port` or `:port` (all interfaces): serves the page and the
    /// sockets or, with HTTPS, redirects to it. Unset: :8080, or :80 if RTHOST is set
    #[arg(
        long,
        env,
        global = true,
        value_name = "ADDR",
        default_value = "",
        hide_default_value = true
    )]
    pub http_addr: String,

    /// Address at which the page and the sockets are served over HTTPS. Unset: :443 if RTHOST or
    /// TLS_CERT is set
    #[arg(
        long,
        env,
        global = true,
        value_name = "ADDR",
        default_value = "",
        hide_default_value = true
    )]
    pub https_addr: String,

    /// PEM file with the certificate for HTTPS and its chain; read again when it changes
    #[arg(long, env, global = true, value_name = "FILE")]
    pub tls_cert: Option<String>,

    /// PEM file with the certificate's private key
    #[arg(long, env, global = true, value_name = "FILE")]
    pub tls_key: Option<String>,

    /// Address at which health and metrics are served, or `off`
    #[arg(long, env, global = true, value_name = "ADDR", default_value = super::ADMIN_ADDR)]
    pub admin_addr: String,

    /// Public host names of this server, comma-separated. Certificates for them are ordered from
    /// the CA (ACME_CA) unless TLS_CERT is set; plain requests are redirected to the first one, at
    /// port 443 unless it has another (`host:8443`). If set, the embedded broker is never started
    /// by default
    #[arg(long, env, global = true, value_name = "HOSTS")]
    pub rthost: Option<String>,

    /// Host names that requests may use besides RTHOST, `localhost` and IP addresses,
    /// comma-separated: `rt.example.com`, `*.example.com`, or `*` for any. Unset: any; but no
    /// others on loopback or with the embedded broker, which protects against DNS rebinding
    #[arg(long, env, global = true, value_name = "HOSTS")]
    pub hosts: Option<String>,

    /// CA that issues certificates: production or staging (of Let's Encrypt), the URL of an ACME
    /// directory, or auto: production, but staging if CERT_DIR is lost when the container restarts
    #[arg(long, env, global = true, value_name = "CA", default_value = super::https::ACME_CA)]
    pub acme_ca: String,

    /// PEM file with a root certificate to trust when connecting to the CA, for a private CA
    #[arg(long, env, global = true, value_name = "FILE")]
    pub acme_ca_root: Option<String>,

    /// E-mail address at which the CA may contact the operator
    #[arg(long, env, global = true, value_name = "ADDRESS")]
    pub acme_email: Option<String>,

    /// How the CA validates the host names: tls-alpn-01 (it connects to port 443), http-01 (to port
    /// 80), dns-01 (TXT records), or auto: dns-01 if a DNS provider is set, else tls-alpn-01
    #[arg(
        long,
        env,
        global = true,
        value_name = "NAME",
        default_value = super::https::ACME_CHALLENGE
    )]
    pub acme_challenge: String,

    /// The DNS provider that creates TXT records
    #[command(flatten)]
    pub dns: DnsSettings,

    /// Folder for certificates; it has to outlive restarts. Unset: roomcast in the XDG data folder
    /// (~/.local/share)
    #[arg(long, env, global = true, value_name = "DIR")]
    pub cert_dir: Option<String>,

    /// The Redis to subscribe to: `host:port`, `redis://…`, `rediss://…` (TLS), `unix:/path`, or
    /// `embedded[:port]`, the development broker in this process. Unset: localhost:6379, where the
    /// embedded broker is started if no Redis answers and RTHOST and REDIS_PUBLISH_HOST are unset
    #[arg(long, env, global = true, value_name = "ADDR", hide_env_values = true)]
    pub redishost: Option<String>,

    /// User name for Redis' AUTH. Unset: the one in REDISHOST, else Redis' `default` user
    #[arg(long, env, global = true, value_name = "NAME")]
    pub redis_username: Option<String>,

    /// File that holds the user name; read at each connect
    #[arg(long, env, global = true, value_name = "FILE")]
    pub redis_username_file: Option<String>,

    /// Password for Redis' AUTH, taken literally: `=`, `+` and `/` are fine
    #[arg(long, env, global = true, value_name = "PASSWORD", hide_env_values = true)]
    pub redis_password: Option<String>,

    /// File that holds the password; read at each connect
    #[arg(long, env, global = true, value_name = "FILE")]
    pub redis_password_file: Option<String>,

    /// The Redis to which messages and probes are published, in the same forms: the master, if
    /// REDISHOST is a replica. Unset: REDISHOST
    #[arg(long, env, global = true, value_name = "ADDR", hide_env_values = true)]
    pub redis_publish_host: Option<String>,

    /// PEM file with the root certificate to trust for a rediss:// Redis; read at each connect.
    /// Unset: Mozilla's roots and those of SSL_CERT_FILE
    #[arg(long, env, global = true, value_name = "FILE")]
    pub redis_ca: Option<String>,

    /// PEM file with the client certificate that a rediss:// Redis asks for; read at each connect
    #[arg(long, env, global = true, value_name = "FILE")]
    pub redis_cert: Option<String>,

    /// PEM file with the private key of REDIS_CERT; read at each connect
    #[arg(long, env, global = true, value_name = "FILE")]
    pub redis_key: Option<String>,

    /// Channel patterns to subscribe to, comma-separated, in Redis' glob syntax
    #[arg(long, env, global = true, value_name = "PATTERNS", default_value = super::REDIS_CHANNELS)]
    pub redis_channels: String,

    /// Number of messages kept in each room's history, up to 10000; 0 keeps none
    #[arg(long, env, global = true, value_name = "COUNT", default_value = super::HISTORY)]
    pub history: String,

    /// How long a message is kept in the history, 1s to 24h
    #[arg(long, env, global = true, value_name = "TIME", default_value = super::HISTORY_TTL)]
    pub history_ttl: String,

    /// How long the latest message of a room is kept, if that is longer than HISTORY_TTL, 1s to 7d
    #[arg(long, env, global = true, value_name = "TIME", default_value = super::LAST_TTL)]
    pub last_ttl: String,

    /// Maximum size of all rooms' histories together, e.g. 32MiB; the oldest messages are dropped
    /// first, and the latest one of each room last. Unset: 32MiB, or an eighth of the container's memory if
    /// less
    #[arg(long, env, global = true, value_name = "SIZE")]
    pub history_bytes: Option<String>,

    /// Folder in which the history is saved: written every 30 s and when the server stops, read
    /// when it starts. Unset: the history is empty after a restart
    #[arg(long, env, global = true, value_name = "DIR")]
    pub state_dir: Option<String>,

    /// Number of tasks among which the fan-out is divided, by room, 1 to 64. Unset: the number of
    /// cores
    #[arg(long, env, global = true, value_name = "COUNT")]
    pub lanes: Option<String>,

    /// Folder to serve instead of the built-in page
    #[arg(long, env, global = true, value_name = "DIR")]
    pub assets: Option<String>,

    /// Prefix of all paths, such as `/rt`, for a proxy that passes it on; paths without it are served
    /// too
    #[arg(long, env, global = true, value_name = "PATH")]
    pub path_prefix: Option<String>,

    /// Emit the event `hello` to the other sockets in a room at each join: true or false
    #[arg(long, env, global = true, value_name = "BOOL", default_value = super::HELLO)]
    pub hello: String,

    /// A client that reads none of its pending bytes for this long is disconnected, 1s to 19s
    #[arg(long, env, global = true, value_name = "TIME", default_value = super::timing::SLOW_AFTER)]
    pub slow_after: String,

    /// How often the server sends a heartbeat to each socket, 1s to 5m; less than the time after
    /// which a proxy closes a silent connection
    #[arg(long, env, global = true, value_name = "TIME", default_value = super::timing::PING_INTERVAL)]
    pub ping_interval: String,

    /// How long a client may take to answer a heartbeat, 1s to 5m
    #[arg(long, env, global = true, value_name = "TIME", default_value = super::timing::PING_TIMEOUT)]
    pub ping_timeout: String,

    /// Secret that JWTs are signed with (HS256, HS384, HS512). If it or JWT_PUBLIC_KEY is set,
    /// clients cannot watch without a token
    #[arg(long, env, global = true, value_name = "SECRET", hide_env_values = true)]
    pub jwt_secret: Option<String>,

    /// File that holds the secret; read again at SIGHUP
    #[arg(long, env, global = true, value_name = "FILE")]
    pub jwt_secret_file: Option<String>,

    /// Public key that verifies JWTs, PEM: RSA (RS256, PS256, …), P-256 (ES256), P-384 (ES384) or
    /// Ed25519 (EdDSA)
    #[arg(long, env, global = true, value_name = "PEM")]
    pub jwt_public_key: Option<String>,

    /// File that holds the public key; read again at SIGHUP
    #[arg(long, env, global = true, value_name = "FILE")]
    pub jwt_public_key_file: Option<String>,

    /// Audience that the claim `aud` of a JWT has to equal or to list. Unset: it is not checked
    #[arg(long, env, global = true, value_name = "TEXT")]
    pub jwt_audience: Option<String>,

    /// Issuer that the claim `iss` of a JWT has to equal. Unset: it is not checked
    #[arg(long, env, global = true, value_name = "TEXT")]
    pub jwt_issuer: Option<String>,

    /// Claim of a JWT that lists the room patterns a client may join
    #[arg(
        long,
        env,
        global = true,
        value_name = "NAME",
        default_value = super::tokens::ROOMS_CLAIM
    )]
    pub jwt_rooms_claim: String,

    /// Tokens that allow publishing on every channel by POST /publish/CHANNEL, comma-separated or
    /// one per line. If neither this nor a JWT key is set, there is no such path
    #[arg(long, env, global = true, value_name = "TOKENS", hide_env_values = true)]
    pub publish_token: Option<String>,

    /// File that holds the tokens; read again at SIGHUP
    #[arg(long, env, global = true, value_name = "FILE")]
    pub publish_token_file: Option<String>,

    /// Maximum size of a payload, up to 16MiB: a larger one that is published over HTTP is answered
    /// 413, one from Redis is dropped
    #[arg(long, env, global = true, value_name = "SIZE", default_value = super::MAX_PAYLOAD)]
    pub max_payload: String,

    /// Origins of other pages that may connect, comma-separated: `https://app.example.com`,
    /// `https://*.example.com`, or `*` for all. The server's own origin is always allowed
    #[arg(long, env, global = true, value_name = "ORIGINS")]
    pub allowed_origins: Option<String>,

    /// Origins whose pages may show the built-in page in a frame, in the same forms. Unset: none
    #[arg(long, env, global = true, value_name = "ORIGINS")]
    pub frame_ancestors: Option<String>,

    /// Proxies whose X-Forwarded-For and X-Forwarded-Host are trusted: addresses and networks,
    /// comma-separated, e.g. 10.0.0.0/8,::1
    #[arg(long, env, global = true, value_name = "NETWORKS")]
    pub trusted_proxies: Option<String>,

    /// Maximum number of connections; further ones are answered 503. Unset: 20000, or less if the
    /// open-file limit or half of the container's memory (at 64KiB per connection) allows fewer
    #[arg(long, env, global = true, value_name = "COUNT")]
    pub max_connections: Option<String>,

    /// Maximum number of connections per client address; further ones are answered 429. Unset: no
    /// limit
    #[arg(long, env, global = true, value_name = "COUNT")]
    pub max_connections_per_address: Option<String>,

    /// Maximum number of rooms that a socket may be in, up to 2000
    #[arg(long, env, global = true, value_name = "COUNT", default_value = super::limits::MAX_ROOMS)]
    pub max_rooms: String,

    /// Maximum number of events per second from a socket, after a burst of MAX_ROOMS joins and
    /// leaves
    #[arg(long, env, global = true, value_name = "COUNT", default_value = super::limits::MAX_EVENTS)]
    pub max_events: String,

    /// Maximum size of a message from a client, 4KiB to 1MiB
    #[arg(long, env, global = true, value_name = "SIZE", default_value = super::limits::MAX_MESSAGE)]
    pub max_message: String,

    /// Maximum number of bytes pending for all clients together; beyond it, the clients with the
    /// largest backlog are disconnected. Unset: 256MiB, or a quarter of the container's memory if
    /// less
    #[arg(long, env, global = true, value_name = "SIZE")]
    pub backlog_total: Option<String>,

    /// Time over which connections are closed after SIGTERM or Ctrl-C, 0s to 10m
    #[arg(long, env, global = true, value_name = "TIME", default_value = super::GRACE)]
    pub grace: String,

    /// Format of the log on standard error: text or json
    #[arg(long, env, global = true, value_name = "FORMAT", default_value = super::LOG_FORMAT)]
    pub log_format: String,

    /// Least severe level that is logged: error, warn, info, debug (each connection) or trace
    #[arg(long, env, global = true, value_name = "LEVEL", default_value = super::LOG_LEVEL)]
    pub log_level: String,
}

impl Settings {
    /// Names of the settings that are set and name a file with keys or tokens, which decide about
    /// access. A reload (SIGHUP) reads these files again.
    pub fn secret_files(&self) -> Vec<&'static str> {
        let files = [
            ("JWT_SECRET_FILE", &self.jwt_secret_file),
            ("JWT_PUBLIC_KEY_FILE", &self.jwt_public_key_file),
            ("PUBLISH_TOKEN_FILE", &self.publish_token_file),
        ];
        let set = files.into_iter().filter(|(_, file)| super::given((*file).clone()).is_some());
        set.map(|(name, _)| name).collect()
    }
}
