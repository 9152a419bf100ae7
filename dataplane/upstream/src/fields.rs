//! Header fields that end at a hop, and those that say whose request it is.
//!
//! Pure.

/// Fields of one connection (RFC 9110 7.6.1), besides those that Connection names; and `Proxy`, which scripts would take for
/// the environment's HTTP_PROXY.
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Fields that are told to an origin by us: what a client says of itself is not passed on.
const FORWARDED: [&str; 6] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
];

/// Whether a field ends here; `options` are the values of Connection.
pub(crate) fn ends_here<'a>(name: &[u8], mut options: impl Iterator<Item = &'a [u8]>) -> bool {
    HOP_BY_HOP.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
        || options.any(|value| names(value, name))
}

/// Whether a value of Connection names no field, as nearly all do.
pub(crate) fn is_usual(value: &[u8]) -> bool {
    value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close")
}

/// Whether a list of Connection has the option.
fn names(value: &[u8], option: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|listed| listed.trim_ascii().eq_ignore_ascii_case(option))
}

/// Whether a field says whose request it is. A script's environment knows no hyphens, so that one with underscores would
/// become the same.
pub(crate) fn says_whose(name: &[u8]) -> bool {
    let alike = |ours: u8, theirs: u8| match theirs {
        b'_' => ours == b'-',
        theirs => ours == theirs.to_ascii_lowercase(),
    };
    FORWARDED.iter().any(|known| {
        known.len() == name.len() && known.bytes().zip(name).all(|(ours, theirs)| alike(ours, *theirs))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forged_names_are_seen() {
        for name in ["Forwarded", "X-Forwarded-For", "x_forwarded_for", "X_Forwarded-PROTO", "X-Real-IP"] {
            assert!(says_whose(name.as_bytes()), "{name}");
        }
        for name in ["Forwarded-For", "X-Forwarded", "X-Forwarded-Forx", "", "x+forwarded+for"] {
            assert!(!says_whose(name.as_bytes()), "{name}");
        }
    }

    proptest! {
        /// A field ends here where it is one of those that always do, or where Connection names it, in any case, anywhere
        /// in its list.
        #[test]
        fn what_connection_names_ends_here(
            name in "[A-Za-z-]{1,12}",
            others in proptest::collection::vec("[a-z-]{1,12}", 0..4),
            at in 0usize..4,
            named: bool,
            space in "[ \t]{0,2}",
        ) {
            let mut list = others.clone();
            if named {
                list.insert(at.min(list.len()), format!("{space}{}{space}", name.to_ascii_uppercase()));
            }
            let value = list.join(",");
            let lower = name.to_ascii_lowercase();
            let always = HOP_BY_HOP.contains(&lower.as_str());
            let expected = named || always || others.contains(&lower);
            prop_assert_eq!(ends_here(name.as_bytes(), std::iter::once(value.as_bytes())), expected);
            prop_assert_eq!(ends_here(name.as_bytes(), std::iter::empty()), always);
        }
    }
}
