//! Plasma by its own C++ client, `bench/peers/plasma.cpp`, which `scripts/build-plasma.sh` compiles and which is loaded here
//! at run time: it would be the only C++ of the workspace.

use super::Peer;
use super::server::Server;
use hostkv::ChunkKey;
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;

/// Names the folder that `scripts/build-plasma.sh` prints.
const FOLDER: &str = "HOSTKV_BENCH_PLASMA";
/// Bytes of an object id; a key's first ones.
const ID_BYTES: usize = 20;
/// Memory of the store.
const STORE_BYTES: u64 = 2 << 30;

type Count = unsafe extern "C" fn(*mut c_void, *const u8, usize) -> i64;

/// The functions of the loaded library.
struct Library {
    open: unsafe extern "C" fn(*const c_char) -> *mut c_void,
    close: unsafe extern "C" fn(*mut c_void),
    delete: Count,
    store: unsafe extern "C" fn(*mut c_void, *const u8, usize, *const u8, usize) -> i64,
    contains: Count,
    view: Count,
    sum: unsafe extern "C" fn(*mut c_void, *const u8, usize, *mut u64) -> i64,
}

/// The store, and the client's connection.
pub struct Plasma {
    library: Library,
    client: *mut c_void,
    ids: Vec<u8>,
    stored: Vec<u8>,
    // Ends after the client.
    _server: Server,
}

impl Plasma {
    /// Starts the store with 2 GiB.
    pub fn start() -> Result<Plasma, String> {
        let folder = std::env::var(FOLDER).map_err(|_| {
            format!("{FOLDER} names no folder; scripts/build-plasma.sh makes one, as scripts/bench.sh does")
        })?;
        let folder = Path::new(&folder);
        let library = Library::load(&folder.join("libbench-plasma.so"))?;
        let program = folder.join("plasma-store-server");
        let mut path = None;
        let server = Server::start(&program.display().to_string(), |socket, _| {
            path = Some(socket.to_owned());
            [
                "-s",
                &socket.display().to_string(),
                "-m",
                &STORE_BYTES.to_string(),
            ]
            .map(str::to_owned)
            .to_vec()
        })?;
        let socket = path
            .and_then(|path| CString::new(path.as_os_str().as_encoded_bytes()).ok())
            .ok_or("the store's socket has no name")?;
        // SAFETY: the library's function, and a text that ends with a zero.
        let client = unsafe { (library.open)(socket.as_ptr()) };
        if client.is_null() {
            return Err("the client does not connect".to_owned());
        }
        Ok(Plasma {
            library,
            client,
            ids: Vec::new(),
            stored: Vec::new(),
            _server: server,
        })
    }

    fn set_ids(&mut self, keys: &[ChunkKey]) {
        self.ids.clear();
        for key in keys {
            self.ids.extend_from_slice(&key.chunk_hash[..ID_BYTES]);
        }
    }

    fn count(&mut self, call: Count, keys: &[ChunkKey]) -> Result<usize, String> {
        self.set_ids(keys);
        // SAFETY: the client is open, and the ids are as many.
        let found = unsafe { call(self.client, self.ids.as_ptr(), keys.len()) };
        usize::try_from(found).map_err(|_| "a call failed".to_owned())
    }

    /// Objects are sealed for ever, so what is stored again is deleted first.
    fn delete(&mut self, ids: &[u8]) -> Result<(), String> {
        // SAFETY: the client is open, and the ids are whole.
        let code =
            unsafe { (self.library.delete)(self.client, ids.as_ptr(), ids.len() / ID_BYTES) };
        if code == 0 {
            Ok(())
        } else {
            Err("deleting failed".to_owned())
        }
    }
}

impl Peer for Plasma {
    fn name(&self) -> &'static str {
        "Plasma"
    }

    fn gives_views(&self) -> bool {
        true
    }

    fn batches_stores(&self) -> bool {
        false
    }

    fn most_keys(&self) -> u64 {
        // It answers no batch of questions whether objects are there, and takes minutes to be filled with a million.
        1 << 16
    }

    fn clear(&mut self) -> Result<(), String> {
        let stored = std::mem::take(&mut self.stored);
        self.delete(&stored)
    }

    fn make_room(&mut self, keys: &[ChunkKey]) -> Result<(), String> {
        self.set_ids(keys);
        let ids = std::mem::take(&mut self.ids);
        self.delete(&ids)
    }

    fn store(&mut self, keys: &[ChunkKey], bytes: &[u8]) -> Result<(), String> {
        self.set_ids(keys);
        self.stored.extend_from_slice(&self.ids);
        // SAFETY: the client is open, the ids are as many, and the bytes are as long.
        let code = unsafe {
            (self.library.store)(
                self.client,
                self.ids.as_ptr(),
                keys.len(),
                bytes.as_ptr(),
                bytes.len(),
            )
        };
        if code == 0 {
            Ok(())
        } else {
            Err("storing failed".to_owned())
        }
    }

    fn find(&mut self, keys: &[ChunkKey]) -> Result<usize, String> {
        self.count(self.library.contains, keys)
    }

    fn view(&mut self, keys: &[ChunkKey]) -> Result<usize, String> {
        self.count(self.library.view, keys)
    }

    fn sum(&mut self, key: &ChunkKey, len: usize) -> Result<u64, String> {
        self.set_ids(std::slice::from_ref(key));
        let mut sum = 0;
        // SAFETY: the client is open, there is one id, and the sum is ours.
        let code = unsafe { (self.library.sum)(self.client, self.ids.as_ptr(), len, &mut sum) };
        if code == 0 {
            Ok(sum)
        } else {
            Err(format!("there is no object of {len} bytes under this key"))
        }
    }
}

impl Drop for Plasma {
    fn drop(&mut self) {
        // SAFETY: the client is ours and not used any more.
        unsafe { (self.library.close)(self.client) };
    }
}

impl Library {
    fn load(path: &Path) -> Result<Library, String> {
        let name =
            CString::new(path.as_os_str().as_encoded_bytes()).map_err(|error| error.to_string())?;
        // SAFETY: the library's initialisers are C++'s own; it stays loaded until the process ends.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
        if handle.is_null() {
            return Err(format!(
                "{} cannot be loaded: {}",
                path.display(),
                last_error()
            ));
        }
        let symbol = |name: &CStr| {
            // SAFETY: the handle is open.
            let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
            if address.is_null() {
                Err(last_error())
            } else {
                Ok(address)
            }
        };
        // SAFETY: bench/peers/plasma.cpp defines functions of these names and types.
        unsafe {
            Ok(Library {
                open: std::mem::transmute::<
                    *mut c_void,
                    unsafe extern "C" fn(*const c_char) -> *mut c_void,
                >(symbol(c"bench_plasma_open")?),
                close: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut c_void)>(
                    symbol(c"bench_plasma_close")?,
                ),
                delete: std::mem::transmute::<*mut c_void, Count>(symbol(c"bench_plasma_delete")?),
                store: std::mem::transmute::<
                    *mut c_void,
                    unsafe extern "C" fn(*mut c_void, *const u8, usize, *const u8, usize) -> i64,
                >(symbol(c"bench_plasma_store")?),
                contains: std::mem::transmute::<*mut c_void, Count>(symbol(
                    c"bench_plasma_contains",
                )?),
                view: std::mem::transmute::<*mut c_void, Count>(symbol(c"bench_plasma_view")?),
                sum: std::mem::transmute::<
                    *mut c_void,
                    unsafe extern "C" fn(*mut c_void, *const u8, usize, *mut u64) -> i64,
                >(symbol(c"bench_plasma_sum")?),
            })
        }
    }
}

fn last_error() -> String {
    // SAFETY: the text is the loader's, and read before anything else is loaded.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "unknown".to_owned();
    }
    // SAFETY: as above.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}
