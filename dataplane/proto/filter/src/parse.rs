//! From an operator's words to a filter.
//!
//! ```text
//! filter = [ terms ]
//! terms  = factor { "and" factor } | factor { "or" factor }      also && and ||
//! factor = "not" factor | "(" terms ")" | test                   also !
//! test   = kind [ end ] | end
//! kind   = "tcp" | "udp" | "icmp" | "icmp6" | "arp" | "ip" | "ip6"
//! end    = [ "src" | "dst" ] ( "host" ADDRESS | "net" ADDRESS/BITS | "port" NUMBER ) | ( "src" | "dst" ) ADDRESS[/BITS]
//! ```

use std::net::IpAddr;

use keyferry_link::Cidr;

use crate::filter::{Kind, Side, Term};
use crate::{DEPTH_MAX, TEXT_BYTES_MAX};

/// Why a text is no filter; each says what to write.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FilterError {
    /// Longer than [`TEXT_BYTES_MAX`].
    #[error("the filter is too long: at most {TEXT_BYTES_MAX} bytes are read")]
    Long,
    /// Deeper than [`DEPTH_MAX`].
    #[error("more than {DEPTH_MAX} parentheses and nots inside each other: write it with fewer")]
    Deep,
    /// A word that is much like one there is.
    #[error("there is no word {word:?} here: did you mean {nearest}?")]
    Misspelled {
        /// What was written.
        word: String,
        /// The nearest word.
        nearest: &'static str,
    },
    /// A word that is like none.
    #[error("there is no word {word:?} here: {wants}")]
    Unknown {
        /// What was written.
        word: String,
        /// What may stand there.
        wants: &'static str,
    },
    /// It ends too soon.
    #[error("the filter ends behind {after:?}: {wants}")]
    Ends {
        /// The last word.
        after: String,
        /// What is to follow.
        wants: &'static str,
    },
    /// No address, network or port.
    #[error("{text:?} is none behind {after:?}: {wants}")]
    Value {
        /// The word before it.
        after: &'static str,
        /// What was written.
        text: String,
        /// What may stand there.
        wants: &'static str,
    },
    /// A network with bits of a host.
    #[error("net {0} has bits set behind its prefix: write net {1}, or host {address}", address = .0.address())]
    Bits(Cidr, Cidr),
    /// `and` beside `or`.
    #[error("\"and\" beside \"or\" can be read in two ways: put parentheses around one of them")]
    Mixed,
    /// Ports of what has none.
    #[error("{0} has no ports: write tcp or udp, or port alone")]
    Portless(&'static str),
    /// A parenthesis that is never closed, or was never opened.
    #[error("a {0:?} without its other half: parentheses come in pairs")]
    Unpaired(char),
}

const TEST: &str =
    "write host, net, port, tcp, udp, icmp, icmp6, arp, ip or ip6, with src or dst before the first three";
const JOINT: &str = "write and or or between two conditions";
const END: &str = "write host, net or port, or an address";
const HOST: &str = "write an address, such as 192.0.2.1";
const NET: &str = "write a network, such as 192.0.2.0/24";
const PORT: &str = "write a number, at most 65535";

pub(crate) fn filter(text: &str) -> Result<Option<Term>, FilterError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(FilterError::Long);
    }
    let words = words(text);
    if words.is_empty() {
        return Ok(None);
    }
    let mut parser = Parser { words: &words, at: 0 };
    let term = parser.terms(0)?;
    match parser.peek() {
        None => Ok(Some(term)),
        Some(")") => Err(FilterError::Unpaired(')')),
        Some(word) => Err(unknown(word, &JOINTS, JOINT)),
    }
}

/// Words, and signs that need no blanks around them.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for part in text.split_whitespace() {
        let mut rest = part;
        while let Some(at) = rest.find(['(', ')', '!', '&', '|']) {
            let sign = &rest[at..];
            let len = if sign.starts_with("&&") || sign.starts_with("||") { 2 } else { 1 };
            words.extend([&rest[..at], &sign[..len]].into_iter().filter(|word| !word.is_empty()));
            rest = &sign[len..];
        }
        words.extend(Some(rest).filter(|word| !word.is_empty()));
    }
    words
}

struct Parser<'a> {
    words: &'a [&'a str],
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.at).copied()
    }

    fn next(&mut self, wants: &'static str) -> Result<&'a str, FilterError> {
        let word = self.peek().ok_or_else(|| FilterError::Ends {
            after: self.words.last().copied().unwrap_or_default().to_owned(),
            wants,
        })?;
        self.at += 1;
        Ok(word)
    }

    fn terms(&mut self, depth: usize) -> Result<Term, FilterError> {
        let first = self.factor(depth)?;
        let mut terms = vec![first];
        let mut joint = None;
        while let Some(is_and) = self.peek().and_then(is_and) {
            if joint.is_some_and(|joint| joint != is_and) {
                return Err(FilterError::Mixed);
            }
            joint = Some(is_and);
            self.at += 1;
            terms.push(self.factor(depth)?);
        }
        Ok(match joint {
            Some(true) => Term::All(terms),
            Some(false) => Term::Any(terms),
            None => terms.remove(0),
        })
    }

    fn factor(&mut self, depth: usize) -> Result<Term, FilterError> {
        if depth > DEPTH_MAX {
            return Err(FilterError::Deep);
        }
        match self.next(TEST)? {
            "not" | "!" => Ok(Term::Not(Box::new(self.factor(depth + 1)?))),
            "(" => {
                let term = self.terms(depth + 1)?;
                match self.peek() {
                    Some(")") => self.at += 1,
                    None => return Err(FilterError::Unpaired('(')),
                    Some(word) => return Err(unknown(word, &JOINTS, JOINT)),
                }
                Ok(term)
            }
            word => self.test(word),
        }
    }

    fn test(&mut self, word: &'a str) -> Result<Term, FilterError> {
        let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.word() == word) else {
            return self.end(word);
        };
        // "tcp port 443" is "tcp and port 443".
        match self.peek() {
            Some(next) if matches!(next, "src" | "dst" | "host" | "net" | "port") => {
                self.at += 1;
                let end = self.end(next)?;
                if matches!(end, Term::Port(..))
                    && !matches!(kind, Kind::Tcp | Kind::Udp | Kind::Ip | Kind::Ip6)
                {
                    return Err(FilterError::Portless(kind.word()));
                }
                Ok(Term::All(vec![Term::Is(kind), end]))
            }
            _ => Ok(Term::Is(kind)),
        }
    }

    fn end(&mut self, word: &'a str) -> Result<Term, FilterError> {
        let side = match word {
            "src" => Side::Source,
            "dst" => Side::Destination,
            _ => Side::Either,
        };
        let what = if side == Side::Either { word } else { self.next(END)? };
        match what {
            "host" => {
                let text = self.next(HOST)?;
                let host = text.parse().map_err(|_| value("host", text, HOST))?;
                Ok(Term::Host(side, host))
            }
            "net" => self.next(NET).and_then(net).map(|net| Term::Net(side, net)),
            "port" => {
                let text = self.next(PORT)?;
                let port = text.parse().map_err(|_| value("port", text, PORT))?;
                Ok(Term::Port(side, port))
            }
            text if side == Side::Either => Err(unknown(text, &WORDS, TEST)),
            text => match text.parse::<IpAddr>() {
                Ok(host) => Ok(Term::Host(side, host)),
                Err(_) if text.contains('/') => net(text).map(|net| Term::Net(side, net)),
                Err(_) => Err(unknown(text, &["host", "net", "port"], END)),
            },
        }
    }
}

/// What may begin a condition.
const WORDS: [&str; 13] =
    ["host", "net", "port", "tcp", "udp", "icmp", "icmp6", "arp", "ip", "ip6", "src", "dst", "not"];

/// What may stand behind a condition, or should have.
const JOINTS: [&str; 7] = ["and", "or", "src", "dst", "host", "net", "port"];

fn is_and(word: &str) -> Option<bool> {
    match word {
        "and" | "&&" => Some(true),
        "or" | "||" => Some(false),
        _ => None,
    }
}

fn net(text: &str) -> Result<Cidr, FilterError> {
    let net: Cidr = text.parse().map_err(|_| value("net", text, NET))?;
    let begin = begin(net);
    if begin == net { Ok(net) } else { Err(FilterError::Bits(net, begin)) }
}

/// The network an address with a prefix is in.
fn begin(net: Cidr) -> Cidr {
    let behind = u32::from(net.prefix());
    let address = match net.address() {
        IpAddr::V4(it) => IpAddr::V4((u32::from(it) & u32::MAX.checked_shl(32 - behind).unwrap_or(0)).into()),
        IpAddr::V6(it) => {
            IpAddr::V6((u128::from(it) & u128::MAX.checked_shl(128 - behind).unwrap_or(0)).into())
        }
    };
    Cidr::new(address, net.prefix()).unwrap_or(net)
}

fn value(after: &'static str, text: &str, wants: &'static str) -> FilterError {
    FilterError::Value { after, text: text.to_owned(), wants }
}

/// What is said of a word that may not stand there; `words` may.
fn unknown(word: &str, words: &[&'static str], wants: &'static str) -> FilterError {
    let lower = word.to_lowercase();
    let distance = |other: &&'static str| strsim::damerau_levenshtein(&lower, other);
    // Half of it may be wrong.
    let nearest =
        words.iter().copied().min_by_key(distance).filter(|other| 2 * distance(other) <= word.len());
    let word = word.to_owned();
    match nearest {
        Some(nearest) => FilterError::Misspelled { word, nearest },
        None => FilterError::Unknown { word, wants },
    }
}
