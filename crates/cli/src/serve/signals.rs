//! SIGINT, SIGTERM and a lost terminal (SIGHUP, unless it is ignored) while serving: the first ends it in order, the second
//! at once.

use std::io;

#[cfg(unix)]
use casallm_train::interrupt::hangup_is_ignored;
use tokio::sync::watch;

/// How many signals have come.
pub(super) struct Signals(watch::Receiver<u32>);

impl Signals {
    /// Hears them from now on. To be called within a runtime.
    pub(super) fn listen() -> io::Result<Self> {
        let (sender, receiver) = watch::channel(0);
        #[cfg(unix)]
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        #[cfg(unix)]
        let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
        #[cfg(unix)]
        let mut hangup = match hangup_is_ignored() {
            true => None,
            false => Some(tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?),
        };
        tokio::spawn(async move {
            loop {
                #[cfg(unix)]
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                    Some(()) = async { hangup.as_mut()?.recv().await } => {}
                }
                #[cfg(not(unix))]
                if tokio::signal::ctrl_c().await.is_err() {
                    return;
                }
                sender.send_modify(|count| *count += 1);
            }
        });
        Ok(Signals(receiver))
    }

    /// Until the first.
    pub(super) async fn first(&self) {
        self.wait(1).await;
    }

    /// Until the second.
    pub(super) async fn second(&self) {
        self.wait(2).await;
    }

    async fn wait(&self, count: u32) {
        if self.0.clone().wait_for(|come| *come >= count).await.is_err() {
            // Nobody listens any more, so nothing will come.
            std::future::pending::<()>().await;
        }
    }
}
