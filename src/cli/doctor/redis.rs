//! Checks of Redis: whether it answers and accepts the credentials, whether the patterns are
//! permitted, its role, and its limit for a subscription that is behind.

use bytesize::ByteSize;
use roomcast::{
    config::{Config, ListenAddr, REDIS_PORT, RedisAddress, Secret, Source},
    inspect::bind,
    redis::{BufferLimit, Echo, Inspection, SourceRole, answers, inspect},
};

use super::Finding;

/// Redis' defaults for `client-output-buffer-limit pubsub`, in bytes. With lower limits, Redis
/// closes the subscription at a burst of messages.
const HARD: u64 = 32 << 20;
const SOFT: u64 = 8 << 20;

/// Checks the configured source of messages: the Redis, or whether the embedded broker can start.
pub async fn look(config: &Config) -> Vec<Finding> {
    match &config.source {
        Source::Redis(address) => examine(address, config).await,
        Source::Detect(address) if answers(address).await => examine(address, config).await,
        Source::Detect(address) => {
            let text = format!(
                "no Redis answers at {address}, so the server would start the embedded broker there, for development; set REDISHOST to a Redis"
            );
            let mut findings = vec![Finding::warn("REDISHOST", text)];
            findings.extend(embedded(REDIS_PORT, &config.channels).await);
            findings
        }
        Source::Embedded(port) => embedded(*port, &config.channels).await,
    }
}

async fn embedded(port: u16, patterns: &[String]) -> Vec<Finding> {
    let address = RedisAddress::tcp("127.0.0.1", port);
    if port != 0 && answers(&address).await {
        return match inspect(&address, None, patterns).await {
            Ok(found) if found.embedded => tell(&address, &found),
            _ => {
                let text = format!(
                    "a Redis runs at {address}, so the embedded broker cannot be started there: set REDISHOST to it, or to embedded:PORT with a free port"
                );
                vec![Finding::fail("REDISHOST", text)]
            }
        };
    }
    let addr = ListenAddr { host: Some("127.0.0.1".to_owned()), port };
    vec![match bind("REDISHOST", &addr).await {
        Ok(_) => Finding::ok("REDISHOST", "the embedded broker can be started, for development"),
        Err(error) => Finding::fail("REDISHOST", format!("{error:#}")),
    }]
}

async fn examine(address: &RedisAddress, config: &Config) -> Vec<Finding> {
    match inspect(address, config.publish_host.as_ref(), &config.channels).await {
        Ok(found) => tell(address, &found),
        Err(error) => vec![Finding::fail("REDISHOST", format!("{error:#}"))],
    }
}

fn tell(address: &RedisAddress, found: &Inspection) -> Vec<Finding> {
    let what = match &found.version {
        _ if found.embedded => "the embedded broker of a roomcast, for development,".to_owned(),
        Some(version) => format!("Redis {version}"),
        None => "Redis".to_owned(),
    };
    let user = address.username.as_ref().and_then(|user| user.read().ok());
    let user = user.as_ref().map_or("default", Secret::expose);
    let login = match &address.password {
        Some(_) => format!("the password of the user {user} is accepted"),
        None => "no password is required".to_owned(),
    };
    let mut findings =
        vec![Finding::ok("REDISHOST", format!("{what} answers at {address}; {login}"))];
    if found.sentinel {
        let text = "it is a Sentinel, which forwards no messages: set REDISHOST to the Redis that it monitors";
        findings.push(Finding::fail("REDISHOST", text));
        return findings;
    }
    findings.push(role(&found.role, user));
    findings.push(if found.refused.is_empty() {
        Finding::ok("REDIS_CHANNELS", "all patterns can be subscribed to")
    } else {
        let rights: Vec<_> = found.refused.iter().map(|pattern| format!("'&{pattern}'")).collect();
        let text = format!(
            "the user {user} may not subscribe to {}: narrow REDIS_CHANNELS, or in Redis: ACL SETUSER {user} +psubscribe {}",
            found.refused.join(", "),
            rights.join(" ")
        );
        Finding::fail("REDIS_CHANNELS", text)
    });
    // The probe needs a subscription.
    if found.refused.is_empty() {
        findings.push(echo(&found.echo, user));
    }
    if !found.embedded {
        findings.push(buffer(found.buffer.as_ref()));
    }
    findings
}

fn role(role: &SourceRole, user: &str) -> Finding {
    let setting = "REDISHOST";
    match role {
        SourceRole::Master => Finding::ok(setting, "it is a master"),
        SourceRole::Replica { master, is_linked: true, .. } => Finding::warn(
            setting,
            format!(
                "it is a replica of {master}, where messages are published; set REDIS_PUBLISH_HOST to the master, so that probes can show that they arrive"
            ),
        ),
        SourceRole::Replica { master, is_linked: false, .. } => Finding::fail(
            setting,
            format!(
                "it is a replica, and its link to the master {master} is down, so messages are lost: restore the link, or set REDISHOST to the master"
            ),
        ),
        SourceRole::Unknown => Finding::warn(
            setting,
            format!(
                "the user {user} may not run INFO, so a failover that leaves the connection open is detected late; in Redis: ACL SETUSER {user} +info"
            ),
        ),
    }
}

fn echo(echo: &Echo, user: &str) -> Finding {
    const BY_PING: &str = "so PING checks the connection instead, which shows less";
    let setting = "REDIS_CHANNELS";
    match echo {
        Echo::Heard(after) => {
            let after = after.as_secs_f64() * 1000.0;
            Finding::ok(
                setting,
                format!("a message published on roomcast:probe:* came back after {after:.1} ms"),
            )
        }
        Echo::Lost => Finding::fail(
            setting,
            "a message published on roomcast:probe:* did not come back: REDISHOST may be several servers that do not forward messages to each other",
        ),
        Echo::Denied => Finding::warn(
            setting,
            format!(
                "the user {user} may not publish on roomcast:probe:*, {BY_PING}; in Redis: ACL SETUSER {user} +publish '&roomcast:probe:*'"
            ),
        ),
        Echo::NotCovered => {
            Finding::ok(setting, format!("the patterns do not cover roomcast:probe:*, {BY_PING}"))
        }
    }
}

fn buffer(limit: Option<&BufferLimit>) -> Finding {
    let setting = "REDISHOST";
    let Some(limit) = limit else {
        let text = "client-output-buffer-limit cannot be asked for (CONFIG GET), so it is unknown when Redis closes a subscription that is behind";
        return Finding::ok(setting, text);
    };
    let size = |bytes| ByteSize(bytes).display().iec();
    let mut limits = Vec::new();
    if limit.hard > 0 {
        limits.push(size(limit.hard).to_string());
    }
    if limit.soft > 0 {
        limits.push(format!("{} for {} s", size(limit.soft), limit.soft_seconds));
    }
    if limits.is_empty() {
        let text = "client-output-buffer-limit pubsub is off: Redis keeps all messages that are pending for this server in its own memory";
        return Finding::ok(setting, text);
    }
    let text = format!(
        "client-output-buffer-limit pubsub is {}: when more is pending for this server, Redis closes the subscription, and the pending messages are lost and reported as a gap",
        limits.join(" or ")
    );
    let is_low = |bytes, enough| bytes > 0 && bytes < enough;
    if is_low(limit.hard, HARD) || is_low(limit.soft, SOFT) {
        let more = "write `client-output-buffer-limit pubsub 32mb 8mb 60` into redis.conf";
        Finding::warn(setting, format!("{text}; that is less than Redis' default: {more}"))
    } else {
        Finding::ok(setting, text)
    }
}
