//! Records of a client whose keys we know: sealed as no sound client would seal them, changed on the way, out of
//! order, or of any content.
//!
//! Input: a suite, then steps; each a byte that picks what happens, then its numbers.

use keyferry_tls::far_end::{FarEnd, ends};
use keyferry_tls::open::{EMPTY_RECORDS_MAX, KEY_UPDATES_MAX, RENEGOTIATIONS_MAX, WARNINGS_MAX};
use keyferry_tls::{
    Alert, Failure, FailureReason, Opened, Opener, OwnFault, PLAINTEXT_BYTES_MAX, RECORD_BYTES_MAX, Suite,
    Version, record_len,
};

use crate::input::Input;
use crate::{Seed, Target};

/// Steps of one series at most.
const STEPS_MAX: usize = 128;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

pub(crate) static TARGET: Target = Target { name: "records", heap_bytes_max: 256 << 10, execute, seeds };

fn execute(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let suite = Suite::ALL[input.below(Suite::ALL.len())];
    let (far_end, opener) = ends(suite, 7);
    let mut talk =
        Talk { far_end, opener, failed: None, closed: false, partial: false, counts: Counts::default() };
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        talk.step(&mut input);
    }
}

/// What a connection may do only so often.
#[derive(Default)]
struct Counts {
    empty: u8,
    key_updates: u8,
    others: u8,
    renegotiations: u8,
}

/// What a record must become.
enum Want<'a> {
    /// Whatever content of this type says.
    Judged(u8),
    /// These bytes, if nothing stands against data now.
    Data(&'a [u8]),
    /// A fault: nobody sealed it, or not at this place.
    Fault,
}

struct Talk {
    far_end: FarEnd,
    opener: Opener,
    failed: Option<Failure>,
    closed: bool,
    /// Part of a handshake message has come.
    partial: bool,
    counts: Counts,
}

impl Talk {
    fn is_tls13(&self) -> bool {
        self.opener.suite().version() == Version::Tls13
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(8) {
            0 => {
                let (len, fill) = (usize::from(input.u16()) % (PLAINTEXT_BYTES_MAX + 64), input.u8());
                let data = vec![fill; len];
                let Some(mut record) = self.far_end.seal(DATA, &data, 0) else { return };
                self.give(&mut record, Want::Data(&data));
            }
            1 => {
                let kind = [ALERT, HANDSHAKE, DATA, 20, 24, 0][input.below(6)];
                let padding = usize::from(input.u16()) % (PLAINTEXT_BYTES_MAX + 64);
                let padding = if input.u8() & 3 == 0 { padding } else { 0 };
                let content = input.piece();
                let Some(mut record) = self.far_end.seal(kind, content, padding) else { return };
                self.give(&mut record, Want::Judged(kind));
            }
            2 => {
                let Some(mut record) = self.far_end.seal(DATA, input.piece(), 0) else { return };
                let at = usize::from(input.u16()) % record.len();
                record[at] ^= input.u8().max(1);
                self.give(&mut record, Want::Fault);
            }
            3 => {
                let mut record = input.piece().to_vec();
                self.give(&mut record, Want::Fault);
            }
            4 => {
                let body = input.piece();
                let mut record =
                    vec![[DATA, ALERT, HANDSHAKE, 20][input.below(4)], 3, 3, 0, body.len() as u8];
                record.extend_from_slice(body);
                self.give(&mut record, Want::Fault);
            }
            5 => {
                let Some(mut record) = self.far_end.seal(HANDSHAKE, &[24, 0, 0, 1, input.u8() & 1], 0) else {
                    return;
                };
                self.give(&mut record, Want::Judged(HANDSHAKE));
            }
            6 => {
                // One is lost: what follows is not in order.
                let _ = self.far_end.seal(DATA, b"lost", 0);
                let Some(mut record) = self.far_end.seal(DATA, input.piece(), 0) else { return };
                self.give(&mut record, Want::Fault);
            }
            _ => {
                // A long handshake message in pieces: the length it claims, then bytes.
                let len = usize::from(input.u16());
                let content = vec![input.u8(); len.min(PLAINTEXT_BYTES_MAX)];
                let Some(mut record) = self.far_end.seal(HANDSHAKE, &content, 0) else { return };
                self.give(&mut record, Want::Judged(HANDSHAKE));
            }
        }
    }

    fn give(&mut self, record: &mut [u8], want: Want<'_>) {
        let fits = record_len(record) == Ok(Some(record.len()));
        assert!(record.len() <= RECORD_BYTES_MAX || !fits);
        let opened = self.opener.open(record);
        if let Some(failed) = self.failed {
            assert_eq!(opened, Err(failed), "a fault is final");
            return;
        }
        if self.closed {
            assert_eq!(opened, Ok(Opened::Nothing), "behind close_notify everything is ignored");
            return;
        }
        match opened {
            Err(failure) => {
                self.failed = Some(failure);
                if let FailureReason::Ours(own) = failure.reason {
                    assert!(own == OwnFault::NotOneRecord && !fits, "the client's fault, and we take it");
                } else {
                    assert!(
                        failure.alert != Alert::CLOSE_NOTIFY
                            || matches!(failure.reason, FailureReason::PeerAlert(_))
                    );
                }
                if let Want::Data(data) = want {
                    let empties = self.counts.empty + self.counts.others;
                    let too_many = data.is_empty() && empties >= EMPTY_RECORDS_MAX;
                    assert!(
                        self.partial || too_many || data.len() > PLAINTEXT_BYTES_MAX,
                        "{failure:?} for sound data"
                    );
                }
            }
            Ok(what) => {
                let (empty, handshake) =
                    (matches!(want, Want::Data([])), matches!(want, Want::Judged(HANDSHAKE)));
                match want {
                    Want::Fault => panic!("nobody sealed that, and it is {what:?}"),
                    Want::Data([]) => assert_eq!(what, Opened::Nothing),
                    Want::Data(data) => {
                        assert!(!self.partial, "data inside a handshake message");
                        assert!(
                            matches!(&what, Opened::Data(got) if *got == data),
                            "the data that was sealed"
                        );
                    }
                    Want::Judged(_) => {}
                }
                let note = Note::of(&what);
                self.partial = handshake && matches!(note, Note::Nothing);
                self.count(note, empty, handshake);
            }
        }
    }

    fn count(&mut self, note: Note, empty: bool, handshake: bool) {
        let tls13 = self.is_tls13();
        let (counter, max) = match note {
            Note::Data => {
                (self.counts.empty, self.counts.key_updates, self.counts.others) = (0, 0, 0);
                return;
            }
            Note::KeyUpdate => {
                assert!(tls13 && handshake, "TLS 1.2 has no key update");
                self.far_end.rekey();
                (&mut self.counts.key_updates, KEY_UPDATES_MAX)
            }
            Note::Renegotiation => {
                assert!(!tls13 && handshake, "TLS 1.3 has no renegotiation");
                (&mut self.counts.renegotiations, RENEGOTIATIONS_MAX)
            }
            Note::Close => {
                self.closed = true;
                return;
            }
            Note::Nothing if handshake => return,
            Note::Nothing if empty => (&mut self.counts.empty, EMPTY_RECORDS_MAX),
            // Warnings, and empty data in another dress.
            Note::Nothing => (&mut self.counts.others, WARNINGS_MAX + EMPTY_RECORDS_MAX),
        };
        *counter += 1;
        assert!(*counter <= max, "what costs us and brings nothing is bounded");
    }
}

/// What was opened, without its bytes.
#[derive(Clone, Copy)]
enum Note {
    Data,
    KeyUpdate,
    Close,
    Nothing,
    Renegotiation,
}

impl Note {
    fn of(opened: &Opened<'_>) -> Note {
        match opened {
            Opened::Data(_) => Note::Data,
            Opened::KeyUpdate { .. } => Note::KeyUpdate,
            Opened::CloseNotify => Note::Close,
            Opened::NoRenegotiation => Note::Renegotiation,
            _ => Note::Nothing,
        }
    }
}

fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    let say = |kind: u8, content: &[u8]| {
        let mut step = vec![1, kind, 0, 0, 1, content.len() as u8];
        step.extend(content);
        step
    };
    let data = |len: u16| [vec![0], len.to_le_bytes().to_vec(), vec![0x61]].concat();
    for suite in 0..Suite::ALL.len() as u8 {
        let steps: [(&str, Vec<Vec<u8>>); 8] = [
            ("data", vec![data(5), data(0), data(16_384), say(0, &[1, 0]), data(1)]),
            ("over", vec![data(16_385)]),
            ("alert", vec![say(0, &[1, 90]), data(1), say(0, &[2, 40]), data(1)]),
            ("update", vec![vec![5, 0], data(7), vec![5, 1], data(7), say(1, &[24, 0, 0, 1, 2])]),
            (
                "pieces",
                vec![say(1, &[24]), say(1, &[0, 0]), say(1, &[1, 1]), data(3), say(1, &[24, 0]), data(1)],
            ),
            (
                "hello",
                vec![say(1, &[1, 0, 0, 4, 3, 3, 0, 0]), data(2), say(1, &[1, 0, 1, 0]), vec![7, 0, 1, 9]],
            ),
            ("changed", vec![data(1), vec![2, 3, b'a', b'b', b'c', 9, 0, 1], data(1)]),
            ("lost", vec![data(1), vec![6, 2, b'a', b'b'], data(1)]),
        ];
        for (name, steps) in steps {
            seeds.push((format!("{name}-{suite}"), [vec![suite], steps.concat()].concat()));
        }
        // Padding, and a record of nothing but padding.
        seeds.push((format!("padded-{suite}"), vec![suite, 1, 2, 100, 0, 0, 1, b'x', 1, 5, 9, 0, 0, 0]));
    }
    seeds
}
