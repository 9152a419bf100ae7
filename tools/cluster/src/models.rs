//! What back-end forwarding gains: the models of the paper on one cluster under the same load.
