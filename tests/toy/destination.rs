//! A file that gets one line for each record: its Call-ID.
#![forbid(unsafe_code)]

use std::fs::OpenOptions;
use std::io::Write as _;
use std::sync::Arc;

use super::{Fate, LocalFuture, Offer, OneByOne, RecordSender, Settings, Sink};
use crate::accounting::fields::Fields;
use crate::params::{ConfigError, Draft};

#[derive(Clone, Debug)]
struct Toy(Arc<str>);

/// On, when `toy_file` is set.
pub fn read(draft: &Draft) -> Result<Option<Arc<dyn Settings>>, ConfigError> {
    Ok(draft.text("toy_file").map(|path| Arc::new(Toy(path.into())) as Arc<dyn Settings>))
}

impl Settings for Toy {
    fn sink(&self, _fields: &Fields) -> Result<Box<dyn Sink>, String> {
        Ok(Box::new(OneByOne(Box::new(self.clone()))))
    }
}

impl RecordSender for Toy {
    fn send_all<'a>(&'a mut self, offers: &'a [Offer<'a>]) -> LocalFuture<'a, Vec<Fate>> {
        Box::pin(async move {
            let line = |offer: &Offer<'_>| {
                let mut file = OpenOptions::new().create(true).append(true).open(&*self.0)?;
                file.write_all(&[&offer.record.core.callid[..], b"\n"].concat())
            };
            offers.iter().map(|o| line(o).map_or_else(|e| Fate::Retry(e.to_string()), |()| Fate::Delivered)).collect()
        })
    }
}
