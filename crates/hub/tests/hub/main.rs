//! Pulls from a hub on 127.0.0.1 that does its best to spoil them.
//!
//! After every case the cache is read through: each blob must have the hash it is named by, each link must lead
//! to the right bytes, and a branch must name a whole snapshot.

mod cache;
mod concurrent;
mod faults;
mod redirects;
mod server;
