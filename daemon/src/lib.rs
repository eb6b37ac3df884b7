//! hostkvd: owner of the KV-cache pool.
