//! What an operator asks for, on the line behind `capture`: one JSON document.

use keyferry_filter::Filter;
use keyferry_worker::capture::{SNAP_BYTES_MAX, SNAP_BYTES_MIN};
use serde::{Deserialize, Serialize};

/// What to capture, and when to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Which packets, as [`Filter`] reads it; empty: all.
    pub filter: String,
    /// Bytes kept of each.
    pub snap: usize,
    /// So many packets at most.
    pub count: Option<u64>,
    /// So long at most, in seconds.
    pub seconds: Option<u32>,
    /// Of this worker alone.
    pub worker: Option<usize>,
    /// With the secrets of the handshakes that are captured.
    pub keys: bool,
}

impl Request {
    /// The filter, if all is within its bounds, for a process of so many workers.
    ///
    /// # Errors
    /// What is wrong, and what to write.
    pub fn check(&self, workers: usize) -> Result<Filter, String> {
        if !(SNAP_BYTES_MIN..=SNAP_BYTES_MAX).contains(&self.snap) {
            return Err(format!("--snap {}: write {SNAP_BYTES_MIN} to {SNAP_BYTES_MAX} bytes", self.snap));
        }
        if self.count == Some(0) || self.seconds == Some(0) {
            return Err("nothing would be captured: write at least 1".to_owned());
        }
        if let Some(worker) = self.worker.filter(|worker| *worker >= workers) {
            let last = workers.saturating_sub(1);
            return Err(format!("there is no worker {worker}: the last one is {last}, the first 0"));
        }
        self.filter.parse().map_err(|error| format!("filter: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_told() {
        let sound = Request {
            filter: "tcp port 443".to_owned(),
            snap: 128,
            count: Some(1),
            seconds: None,
            worker: Some(1),
            keys: false,
        };
        assert_eq!(sound.check(2).map(|filter| filter.to_string()), Ok("tcp and port 443".to_owned()));
        let wrong = |request: Request| request.check(2).expect_err("it is wrong");
        let small = wrong(Request { snap: 10, ..sound.clone() });
        assert!(small.contains("--snap 10: write 64 to 17408"), "{small}");
        let strange = wrong(Request { worker: Some(2), ..sound.clone() });
        assert!(strange.contains("no worker 2: the last one is 1"), "{strange}");
        let none = wrong(Request { count: Some(0), ..sound.clone() });
        assert!(none.contains("at least 1"), "{none}");
        let misspelled = wrong(Request { filter: "prot 443".to_owned(), ..sound.clone() });
        assert!(misspelled.contains("did you mean port?"), "{misspelled}");
        // As it goes over the socket.
        let line = serde_json::to_string(&sound).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), sound);
        assert!(serde_json::from_str::<Request>(&line.replace("snap", "snip")).is_err());
    }
}
