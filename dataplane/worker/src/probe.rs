//! Where the time of a turn goes, for benches. The worker itself runs with a probe that does nothing and costs nothing.

/// A stage of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Mailbox; packets in, link, TCP.
    Packets,
    /// Records opened, requests parsed, decided and submitted.
    Requests,
    /// The application, if it runs inside; replies sealed and handed to TCP.
    Replies,
    /// Queue pairs.
    Fabric,
    /// Connections put aside; timers.
    Timers,
    /// TCP's packets built and framed; memory released.
    Emit,
    /// Packets out.
    Transmit,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Stage; 7] = [
        Stage::Packets,
        Stage::Requests,
        Stage::Replies,
        Stage::Fabric,
        Stage::Timers,
        Stage::Emit,
        Stage::Transmit,
    ];

    /// Its name in figures.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Packets => "packets",
            Stage::Requests => "requests",
            Stage::Replies => "replies",
            Stage::Fabric => "fabric",
            Stage::Timers => "timers",
            Stage::Emit => "emit",
            Stage::Transmit => "transmit",
        }
    }
}

/// Is told where stages end.
pub trait Probe {
    /// A turn begins.
    fn begin(&mut self);
    /// A stage ended.
    fn end_of(&mut self, stage: Stage);
}

impl Probe for () {
    #[inline]
    fn begin(&mut self) {}
    #[inline]
    fn end_of(&mut self, _: Stage) {}
}
