//! The corpus of requests against the parser alone: whole, byte by byte, and cut in two at every place.

use keyferry_http::{Limits, Progress, Reader, Request};

use corpus::{After, Case};

#[path = "../../../../tests/smuggling/corpus.rs"]
mod corpus;

/// What the two good requests behind a case look like.
const BEHIND: &[u8] = b"GET /behind/1 HTTP/1.1\r\nHost: x\r\n\r\nGET /behind/2 HTTP/1.1\r\nHost: x\r\n\r\n";

/// What a server came to: statuses in order, 200 for a whole request, and whether the connection goes on.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    statuses: Vec<u16>,
    after: After,
    /// Targets of the requests taken for good ones.
    targets: Vec<Vec<u8>>,
    /// The refusal answers a HEAD.
    refused_head: bool,
}

/// Reads pieces as a worker does, up to the first refusal or the first request that ends the connection.
fn serve(pieces: &[&[u8]]) -> Outcome {
    let (limits, mut reader, mut request) = (Limits::default(), Reader::new(), Request::default());
    let mut outcome =
        Outcome { statuses: Vec::new(), after: After::Open, targets: Vec::new(), refused_head: false };
    for mut piece in pieces.iter().copied() {
        while !piece.is_empty() {
            match reader.feed(piece, &mut request, &limits) {
                Err(refusal) => {
                    outcome.statuses.push(refusal.status);
                    outcome.after = After::Close;
                    outcome.refused_head = refusal.head_only;
                    return outcome;
                }
                Ok((used, progress)) => {
                    assert!(used > 0 || progress == Progress::Complete, "a reader that uses nothing");
                    piece = &piece[used..];
                    if progress == Progress::Complete {
                        lent_reads_the_same(&request);
                        outcome.statuses.push(200);
                        outcome.targets.push(request.target().to_vec());
                        if !request.keep_alive() {
                            outcome.after = After::Close;
                            return outcome;
                        }
                    }
                }
            }
        }
    }
    outcome
}

/// What is lent is parsed again by the helper: it must come to the same request.
fn lent_reads_the_same(request: &Request) {
    let (head, body) = request.wire();
    let mut lent = Request::default();
    lent.read_wire(head, body, &Limits::default()).expect("the helper takes what the lender took");
    assert_eq!((lent.target(), lent.host(), lent.body()), (request.target(), request.host(), request.body()));
    assert_eq!((lent.method(), lent.keep_alive()), (request.method(), request.keep_alive()));
}

/// What is wrong with an outcome, if anything.
fn fault(case: &Case, how: &str, outcome: &Outcome) -> Option<String> {
    // The parser alone knows no time-outs.
    let parsed = case.statuses.len() - usize::from(case.is_partial());
    let mut statuses = case.statuses[..parsed].to_vec();
    let behind = if case.after == After::Open { 2 } else { 0 };
    statuses.extend(std::iter::repeat_n(200, behind));
    let reached = outcome.targets.iter().filter(|target| target.starts_with(b"/behind/")).count();
    let smuggled = outcome.targets.iter().any(|target| target.ends_with(b"smuggled"));
    let refused = statuses.last().is_some_and(|status| *status >= 400);
    let good = outcome.statuses == statuses
        && (case.is_partial() || outcome.after == case.after)
        && reached == behind
        && !smuggled
        && outcome.refused_head == (refused && case.bytes.starts_with(b"HEAD "));
    (!good).then(|| format!("{} ({}), {how}: wanted {statuses:?}: {outcome:?}", case.name, case.why))
}

/// Every case in these pieces; all faults together.
fn check(pieces: impl Fn(&[u8]) -> Vec<(String, Vec<&[u8]>)>) {
    let mut faults = Vec::new();
    for case in corpus::cases() {
        let stream = stream(&case);
        let found = pieces(&stream).into_iter().find_map(|(how, pieces)| fault(&case, &how, &serve(&pieces)));
        faults.extend(found);
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn stream(case: &Case) -> Vec<u8> {
    if case.is_partial() { case.bytes.clone() } else { [&case.bytes, BEHIND].concat() }
}

#[test]
fn the_corpus_is_large_and_its_cases_have_names_of_their_own() {
    let cases = corpus::cases();
    assert!(cases.len() >= 100, "{} cases", cases.len());
    for (index, case) in cases.iter().enumerate() {
        assert!(!case.bytes.is_empty() && !case.statuses.is_empty(), "{}", case.name);
        assert!(cases[..index].iter().all(|other| other.name != case.name), "{} is there twice", case.name);
        assert!(
            cases[..index].iter().all(|other| other.bytes != case.bytes),
            "{} is another's bytes",
            case.name
        );
    }
}

#[test]
fn whole() {
    check(|stream| vec![("whole".to_owned(), vec![stream])]);
}

#[test]
fn byte_by_byte() {
    check(|stream| vec![("byte by byte".to_owned(), stream.chunks(1).collect())]);
}

#[test]
fn cut_in_two_at_every_place() {
    check(|stream| {
        let cut = |at| (format!("cut at {at}"), vec![&stream[..at], &stream[at..]]);
        (1..stream.len()).map(cut).collect()
    });
}
