//! The states that a volume went through, and which of them may be found after a crash.

use super::family::Family;
use super::view::{View, difference, of_family};
use parking_lot::Mutex;
use std::sync::Arc;

/// One state.
pub struct Point {
    pub view: View,
    /// Kept since the last sync only: no older state can come back.
    model: Option<Family>,
}

#[derive(Default)]
struct Inner {
    points: Vec<Arc<Point>>,
    /// The oldest point that may still be found.
    synced: usize,
    /// An operation is under way: the state after it may be found before it is a point.
    running: bool,
}

/// Which states may be found: those from the last completed sync on.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    pub first: usize,
    /// Inclusive.
    pub last: usize,
}

/// All states of a run. Clones share it.
#[derive(Clone, Default)]
pub struct History(Arc<Mutex<Inner>>);

impl History {
    /// An operation begins.
    pub fn begin(&self) {
        self.0.lock().running = true;
    }

    /// The model has changed, or could have.
    pub fn note(&self, model: &Family) {
        let point = Point { view: of_family(model), model: Some(model.clone()) };
        let mut inner = self.0.lock();
        inner.running = false;
        if inner.points.last().is_none_or(|last| last.view != point.view) {
            inner.points.push(Arc::new(point));
        }
    }

    /// The point that a sync would cover if it began now.
    pub fn current(&self) -> usize {
        self.0.lock().points.len() - 1
    }

    /// A sync that began at `point` is done.
    pub fn synced(&self, point: usize) {
        let mut inner = self.0.lock();
        let from = inner.synced;
        inner.synced = point;
        for old in &mut inner.points[from..point] {
            if let Some(old) = Arc::get_mut(old) {
                old.model = None;
            }
        }
    }

    /// What may be found if the power goes now.
    pub fn allowed(&self) -> Allowed {
        let inner = self.0.lock();
        Allowed { first: inner.synced, last: inner.points.len() - 1 + usize::from(inner.running) }
    }

    /// The point among those allowed that `view` shows.
    #[track_caller]
    pub fn find(&self, allowed: Allowed, view: &View) -> usize {
        let inner = self.0.lock();
        let last = allowed.last.min(inner.points.len() - 1);
        let found = (allowed.first..=last).rev().find(|i| inner.points[*i].view == *view);
        found.unwrap_or_else(|| {
            let elsewhere = inner.points.iter().position(|point| point.view == *view);
            panic!(
                "a state that may not be found: {allowed:?} are allowed, it is {elsewhere:?}.\n\
                 Against the first allowed:\n{}\nAgainst the last:\n{}",
                difference(view, &inner.points[allowed.first].view),
                difference(view, &inner.points[last].view),
            )
        })
    }

    /// The model at a point that is not older than the last sync.
    pub fn model(&self, point: usize) -> Family {
        self.0.lock().points[point].model.clone().unwrap()
    }

    /// From here on, only what follows `point` counts.
    pub fn restart(&self, model: &Family) {
        *self.0.lock() = Inner::default();
        self.note(model);
    }
}
