//! What a distributor counts. Plain numbers with one writer.

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Counts since start.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Counters {
            /// Names, in the order of [`values`](Counters::values).
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name)),+];

            /// What they say, in the same order.
            pub const HELP: &'static [&'static str] = &[$(concat!($($doc),+)),+];

            /// Values, in the order of [`NAMES`](Counters::NAMES).
            pub fn values(&self) -> [u64; Counters::NAMES.len()] {
                [$(self.$name),+]
            }
        }
    };
}

counters! {
    /// Connections begun: given to the node of the client's session.
    by_client,
    /// Connections begun: given to the next node in turn.
    in_turn,
    /// Connections begun: given by their place, since the flow table was full.
    by_place,
    /// Packets of connections that are not known, given to whom they would belong.
    unknown,
    /// Packets forwarded.
    forwarded,
    /// Resets sent in the place of nodes that are gone.
    resets,
    /// Open connections forgotten for want of room.
    flows_lost,
    /// Clients forgotten for want of room although a node holds their session.
    clients_lost,
    /// Sessions nodes have announced.
    announced,
    /// Packets held until another distributor answers.
    held,
    /// Packets held for as long as others can be waited for.
    held_late,
    /// Connections that other distributors were asked for.
    asked,
    /// Packets of connections that another distributor knew.
    found,
    /// Connections learnt from other distributors.
    flows_learnt,
    /// Datagrams sent to other distributors, those sent again included.
    datagrams_told,
    /// Times that datagrams had to be sent again.
    datagrams_again,
    /// Datagrams of other distributors taken.
    datagrams_heard,
    /// Datagrams of other distributors that came twice, or after one that was lost.
    datagrams_out_of_order,
    /// Notices of other distributors.
    notices_heard,
    /// Notices of other distributors about nodes or services that are not configured here, or clients that cannot be.
    notices_strange,
    /// Notices another distributor did not get: it takes nothing.
    notices_lost,
    /// Packets dropped: malformed.
    drop_malformed,
    /// Packets dropped: for no service.
    drop_no_service,
    /// Packets dropped: no node takes connections.
    drop_no_node,
    /// Packets dropped: a reset of nothing.
    drop_stray,
    /// Packets dropped: a fragment whose first one has not come.
    drop_fragment,
    /// Packets dropped: a SYN that is sent again while the first one is held.
    drop_held,
    /// Packets dropped: of a connection that is not known, and another distributor has not said whose it is.
    drop_unanswered,
    /// Packets dropped: for other distributors' port, and not theirs.
    drop_forged,
    /// Packets dropped while the distributor was behind: of connections it does not know, of clients without a session.
    drop_behind,
}
