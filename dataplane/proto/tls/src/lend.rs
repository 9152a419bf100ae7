//! The lease of a write key: what is handed over, its wire form, and the borrower's sealer.
//!
//! Only the record key and IV of one epoch and a range of sequence numbers are ever lent, never a traffic secret: no
//! other epoch's key can be derived from them. Owned by the lender until posted, then by the borrower's worker.

use crate::keys::{IV_BYTES, KEY_BYTES_MAX, Keys, TrafficKey};
use crate::protect::Protector;
use crate::record::{APPLICATION_DATA, Fragment};
use crate::seal::{RECORDS_RESERVED, SealError};
use crate::suite::{Suite, Version};

/// First byte of the wire form.
const FORMAT: u8 = 2;

/// Offsets of the wire form: format, zero, suite, first, records, key, IV, fragment.
const SUITE_AT: usize = 2;
const FIRST_AT: usize = 4;
const RECORDS_AT: usize = 12;
const KEY_AT: usize = 20;
const IV_AT: usize = KEY_AT + KEY_BYTES_MAX;
const FRAGMENT_AT: usize = IV_AT + IV_BYTES;

/// A lent write key: may seal the sequence numbers `first .. first + records`. Erased on drop.
pub struct RecordKey {
    key: TrafficKey,
    first: u64,
    records: u64,
    fragment: Fragment,
}

impl RecordKey {
    /// Bytes of the wire form.
    pub const WIRE_BYTES: usize = FRAGMENT_AT + 2;

    pub(crate) fn new(keys: &Keys, first: u64, records: u64, fragment: Fragment) -> RecordKey {
        let mut lent = RecordKey { key: TrafficKey::empty(keys.suite()), first, records, fragment };
        keys.copy_to(&mut lent.key);
        lent
    }

    /// The suite agreed with the client.
    pub fn suite(&self) -> Suite {
        self.key.suite
    }

    /// The version agreed with the client.
    pub fn version(&self) -> Version {
        self.key.suite.version()
    }

    /// First sequence number lent.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Sequence numbers lent.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Writes the wire form into the start of `out`; returns [`WIRE_BYTES`](RecordKey::WIRE_BYTES).
    ///
    /// # Panics
    /// If `out` is shorter: a mistake of ours.
    pub fn encode(&self, out: &mut [u8]) -> usize {
        let out = &mut out[..RecordKey::WIRE_BYTES];
        out[..SUITE_AT].copy_from_slice(&[FORMAT, 0]);
        out[SUITE_AT..FIRST_AT].copy_from_slice(&self.key.suite.wire().to_be_bytes());
        out[FIRST_AT..RECORDS_AT].copy_from_slice(&self.first.to_be_bytes());
        out[RECORDS_AT..KEY_AT].copy_from_slice(&self.records.to_be_bytes());
        out[KEY_AT..IV_AT].copy_from_slice(self.key.padded_key());
        out[IV_AT..FRAGMENT_AT].copy_from_slice(&self.key.iv);
        out[FRAGMENT_AT..].copy_from_slice(&(self.fragment.bytes() as u16).to_be_bytes());
        RecordKey::WIRE_BYTES
    }

    /// The key of a wire form; `None` unless it [is](RecordKey::is_wire_form) one.
    pub fn decode(bytes: &[u8]) -> Option<RecordKey> {
        let Wire { suite, first, records, fragment, key, iv } = Wire::read(bytes)?;
        let mut lent = RecordKey { key: TrafficKey::empty(suite), first, records, fragment };
        lent.key.key_mut().copy_from_slice(key);
        lent.key.iv = *iv;
        Some(lent)
    }

    /// Whether bytes are exactly what [`encode`](RecordKey::encode) writes: known suite, at least one record, the range
    /// within the suite's limit, a short key padded with zeros, a fragment within bounds.
    pub fn is_wire_form(bytes: &[u8]) -> bool {
        Wire::read(bytes).is_some()
    }
}

/// A wire form, its key and IV where they came.
struct Wire<'a> {
    suite: Suite,
    first: u64,
    records: u64,
    fragment: Fragment,
    key: &'a [u8],
    iv: &'a [u8; IV_BYTES],
}

impl Wire<'_> {
    fn read(bytes: &[u8]) -> Option<Wire<'_>> {
        let bytes: &[u8; RecordKey::WIRE_BYTES] = bytes.try_into().ok()?;
        let number = |at: usize| bytes[at..].first_chunk().map(|it| u64::from_be_bytes(*it));
        let suite = Suite::from_wire(u16::from_be_bytes([bytes[SUITE_AT], bytes[SUITE_AT + 1]]))?;
        let (first, records) = (number(FIRST_AT)?, number(RECORDS_AT)?);
        let end = first.checked_add(records)?;
        let fragment =
            Fragment::new(usize::from(u16::from_be_bytes([bytes[FRAGMENT_AT], bytes[FRAGMENT_AT + 1]])))?;
        let (key, padding) = bytes[KEY_AT..IV_AT].split_at(suite.key_bytes());
        let sound = bytes[..SUITE_AT] == [FORMAT, 0]
            && records > 0
            && end <= suite.records_max() - RECORDS_RESERVED
            && padding.iter().all(|byte| *byte == 0);
        let iv = bytes[IV_AT..FRAGMENT_AT].first_chunk()?;
        sound.then_some(Wire { suite, first, records, fragment, key, iv })
    }
}

/// More stack than aws-lc takes to seal a record.
const STACK_BYTES: usize = 4096;

/// Overwrites what calls just before have left on the stack.
#[inline(never)]
fn wipe_stack() {
    std::hint::black_box(&mut [0u8; STACK_BYTES]);
}

/// Seals a reply under a lent key: data only, and never outside the range. Erased on drop.
pub struct LentSealer {
    protector: Protector,
    first: u64,
    next: u64,
    end: u64,
    fragment: Fragment,
}

impl LentSealer {
    /// The borrower's sealer. The key's bytes are erased on return; what stays is aws-lc's form of it.
    pub fn new(key: RecordKey) -> LentSealer {
        let end = key.first + key.records;
        let RecordKey { first, fragment, .. } = key;
        LentSealer { protector: Protector::new(&key.key), first, next: first, end, fragment }
    }

    /// The borrower's sealer of a wire form, `None` unless it is one. Out of the bytes where they came: a key that is moved
    /// leaves copies behind.
    pub fn decode(bytes: &[u8]) -> Option<LentSealer> {
        let Wire { suite, first, records, fragment, key, iv } = Wire::read(bytes)?;
        let protector = Protector::of(suite, key, iv);
        Some(LentSealer { protector, first, next: first, end: first + records, fragment })
    }

    /// Most plaintext of one record, as the lender has it.
    pub fn fragment(&self) -> Fragment {
        self.fragment
    }

    /// Bytes of the record that `plaintext` bytes become.
    pub fn sealed_len(&self, plaintext: usize) -> usize {
        Protector::sealed_len(self.protector.suite(), plaintext)
    }

    /// Sequence numbers spent: what the lender is to be told on return.
    pub fn used(&self) -> u64 {
        self.next - self.first
    }

    /// Sequence numbers left.
    pub fn records_left(&self) -> u64 {
        self.end - self.next
    }

    /// Seals one record of application data into the start of `out`; returns its length.
    ///
    /// # Errors
    /// [`SealError::Exhausted`] at the end of the range, [`SealError::Bounds`] for too much plaintext or too little
    /// room. No sequence number is spent then.
    pub fn seal_data(&mut self, plaintext: &[u8], out: &mut [u8]) -> Result<usize, SealError> {
        if self.next >= self.end {
            return Err(SealError::Exhausted);
        }
        if plaintext.len() > self.fragment.bytes() || out.len() < self.sealed_len(plaintext.len()) {
            return Err(SealError::Bounds);
        }
        let seq = self.next;
        self.next += 1;
        let sealed = self.protector.seal(seq, APPLICATION_DATA, plaintext, out);
        if self.protector.suite().leaves_keys_on_stack() {
            wipe_stack();
        }
        sealed.ok_or(SealError::Bounds)
    }
}
