//! One request as a line of JSON. In: what a worker tells of it, and the names of nodes. Out: a line that nothing of the
//! request can break: what a client sent is written in printable ASCII, and JSON escapes what is left.

use std::fmt;
use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use keyferry_decide::NodeId;
use keyferry_worker::access::Entry;
use serde::{Serialize, Serializer};

/// The fields, in their order.
#[derive(Serialize)]
struct Line<'a> {
    time: Shown<humantime::Rfc3339Timestamp>,
    connection: Shown<Connection<'a>>,
    client: SocketAddr,
    method: Shown<std::slice::EscapeAscii<'a>>,
    path: Shown<std::slice::EscapeAscii<'a>>,
    #[serde(skip_serializing_if = "is_false")]
    path_cut: bool,
    status: Option<u16>,
    whole: bool,
    acknowledged: bool,
    bytes: u64,
    tls: Option<&'static str>,
    suite: Option<&'static str>,
    resumed: bool,
    lent_to: Option<&'a str>,
    receive_us: u64,
    application_us: u64,
    seal_us: u64,
    transmit_us: u64,
    total_us: u64,
    service_us: Option<u64>,
}

/// The name of a connection, which no other of this process has.
struct Connection<'a>(&'a Entry);

impl fmt::Display for Connection<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Entry { worker, connection: [place, before], .. } = self.0;
        write!(f, "{worker}.{place}.{before}")
    }
}

/// Text of what can be shown, without a copy of it.
struct Shown<T>(T);

impl<T: fmt::Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_false(flag: &bool) -> bool {
    !flag
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Appends the line of a request that was over at `ended`. `name` knows nodes.
pub(super) fn append<'n>(
    entry: &Entry,
    ended: SystemTime,
    name: impl FnOnce(NodeId) -> &'n str,
    out: &mut Vec<u8>,
) {
    let stages = &entry.stages;
    let line = Line {
        time: Shown(humantime::format_rfc3339_micros(ended)),
        connection: Shown(Connection(entry)),
        client: entry.client,
        method: Shown(entry.method.escape_ascii()),
        path: Shown(entry.path.escape_ascii()),
        path_cut: entry.is_cut,
        status: entry.status,
        whole: entry.is_whole,
        acknowledged: entry.is_acknowledged,
        bytes: entry.bytes,
        tls: entry.suite.map(|suite| suite.version().name()),
        suite: entry.suite.map(|suite| suite.name()),
        resumed: entry.resumed,
        lent_to: entry.helper.map(name),
        receive_us: micros(stages.receive),
        application_us: micros(stages.application),
        seal_us: micros(stages.seal),
        transmit_us: micros(stages.transmit),
        total_us: micros(stages.total()),
        service_us: entry.service.map(micros),
    };
    // Writing to memory cannot fail, and there is nothing in it that is no JSON.
    let _ = serde_json::to_writer(&mut *out, &line);
    let _ = out.write_all(b"\n");
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::UNIX_EPOCH;

    use keyferry_time::Time;
    use keyferry_tls::Suite;
    use keyferry_worker::access::Stages;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// An entry for a path.
    pub(in crate::request_log) fn entry(path: &[u8]) -> Entry {
        Entry {
            ended: Time::ZERO,
            worker: 1,
            connection: [7, 3],
            client: "192.0.2.7:50000".parse().unwrap(),
            method: b"GET".iter().copied().collect(),
            path: path.iter().copied().take(256).collect(),
            is_cut: path.len() > 256,
            status: Some(200),
            is_whole: true,
            is_acknowledged: true,
            bytes: 4096,
            suite: Some(Suite::Aes128GcmSha256),
            resumed: true,
            helper: Some(NodeId::of("b")),
            stages: Stages {
                receive: Duration::from_micros(1),
                application: Duration::from_micros(20),
                seal: Duration::from_micros(300),
                transmit: Duration::from_micros(4000),
            },
            service: Some(Duration::from_nanos(1_999)),
            is_sampled: true,
            is_slow: false,
        }
    }

    fn line(entry: &Entry) -> String {
        let mut out = Vec::new();
        append(entry, UNIX_EPOCH + Duration::from_millis(1_500), |_| "b", &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_says_all_of_it() {
        let value: Value = serde_json::from_str(&line(&entry(b"/a"))).unwrap();
        let expected = json!({
            "time": "1970-01-01T00:00:01.500000Z", "connection": "1.7.3", "client": "192.0.2.7:50000",
            "method": "GET", "path": "/a", "status": 200, "whole": true, "acknowledged": true, "bytes": 4096,
            "tls": "TLSv1.3", "suite": "TLS_AES_128_GCM_SHA256", "resumed": true, "lent_to": "b",
            "receive_us": 1, "application_us": 20, "seal_us": 300, "transmit_us": 4000, "total_us": 4321,
            "service_us": 1,
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn what_is_not_known_is_null() {
        let mut entry = entry(&[b'a'; 300]);
        (entry.status, entry.suite, entry.helper, entry.service) = (None, None, None, None);
        let value: Value = serde_json::from_str(&line(&entry)).unwrap();
        for field in ["status", "tls", "suite", "lent_to", "service_us"] {
            assert!(value[field].is_null(), "{field}: {value}");
        }
        assert_eq!((&value["path_cut"], value["path"].as_str().unwrap().len()), (&true.into(), 256));
    }

    #[test]
    fn a_forged_path_stays_within_its_string() {
        let value: Value =
            serde_json::from_str(&line(&entry(b"/\r\n{\"status\":200}\x1b[2J\xc2\x9b\xff\\"))).unwrap();
        assert_eq!(value["path"], r#"/\r\n{\"status\":200}\x1b[2J\xc2\x9b\xff\\"#);
    }

    proptest! {
        #[test]
        fn any_path_is_one_line_of_printable_json(path: Vec<u8>, method: Vec<u8>) {
            let mut entry = entry(&path);
            entry.method = method.iter().copied().take(16).collect();
            let line = line(&entry);
            let body = line.strip_suffix('\n').unwrap();
            prop_assert!(body.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{:?}", body);
            let value: Value = serde_json::from_str(body).unwrap();
            // Nothing is lost: the escapes can be read back.
            let told = path.iter().take(256).copied().collect::<Vec<u8>>().escape_ascii().to_string();
            prop_assert_eq!(value["path"].as_str().unwrap(), told);
        }
    }
}
