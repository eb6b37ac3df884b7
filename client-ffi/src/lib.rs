//! libhostkv: the client library and its C ABI.
