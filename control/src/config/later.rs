//! Features that later releases bring: whoever asks for one today hears so by name, instead of "unknown key".

/// Names under which people ask for a feature, in lower case without separators, and what to say.
const LATER: &[(&[&str], &str)] = &[
    (&["http2", "h2", "alpn"], "HTTP/2 comes with a later release"),
    (&["http3", "h3", "quic"], "QUIC and HTTP/3 come with a later release"),
    (
        &["clientcertificates", "clientcertificate", "clientauth", "clientca", "verifyclient", "mtls"],
        "client certificates come with a later release",
    ),
    (&["acme", "letsencrypt"], "ACME comes with a later release"),
    (&["bonding", "bond", "lacp", "devices"], "bonding of ports comes with a later release"),
    (&["ocsp", "ocspstapling", "stapling"], "OCSP stapling comes with a later release"),
    (&["bgp", "vrrp", "anycast"], "BGP and VRRP come with a later release"),
    (
        &["tunnel", "tunnelledreturn", "tunneledreturn", "ipip", "gre"],
        "tunnelled return comes with a later release",
    ),
    (
        &["distributor", "distribute"],
        "a distributor has a file of its own (docs/examples/distributor.toml), which keyferry distributor reads",
    ),
    (
        &["proxy", "proxypass", "reverseproxy"],
        "a reverse proxy is [app] kind = \"upstream\" with an [[upstream]]",
    ),
    (&["model"], "the model is a key of a node's [node], and of a distributor's [[service]]"),
];

/// What to say to someone who wrote this key or value, if it stands for a later feature.
pub(super) fn feature(name: &str) -> Option<&'static str> {
    let plain: String =
        name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    LATER.iter().find(|(names, _)| names.contains(&plain.as_str())).map(|(_, what)| *what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_usual_spellings() {
        for name in ["HTTP/2", "h2", "http2", "QUIC", "client-certificates", "acme", "ocsp_stapling", "VRRP"]
        {
            assert!(feature(name).is_some(), "{name}");
        }
        assert_eq!(feature("port"), None);
    }
}
