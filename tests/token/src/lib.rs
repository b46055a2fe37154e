//! A PKCS#11 module for tests: the software token kryoptic, with a spy between it and its caller.
//!
//! Everything about it lies beside the library's own file, so a copy of that file is a module of its
//! own, in one process as well:
//!
//! ```text
//! kryoptic.conf    the tokens
//! calls            a line for each call, with the function's name
//! delay.C_Login    that function takes so many milliseconds longer
//! hang.C_Decrypt   that function does not return while this file is there
//! fail.C_Decrypt   that function fails with this code, in decimal
//! gone             no token is there
//! ```

#![allow(
    non_snake_case,
    clippy::missing_safety_doc,
    reason = "the interface is C's"
)]

use std::ffi::{CStr, CString, c_void};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::thread::sleep;
use std::time::Duration;

use kryoptic_lib::fns::general::fn_get_function_list;
use kryoptic_lib::pkcs11::*;

/// What the wrapped functions end in.
static REAL: LazyLock<CK_FUNCTION_LIST> = LazyLock::new(|| {
    let mut list: *mut CK_FUNCTION_LIST = std::ptr::null_mut();
    fn_get_function_list(&mut list);
    // SAFETY: kryoptic's list is a static of its own.
    unsafe { *list }
});

/// What the caller is given.
static SPIED: LazyLock<CK_FUNCTION_LIST> = LazyLock::new(spied);

/// The directory that this library's file is in.
static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| {
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    let here = C_GetFunctionList as *const c_void;
    // SAFETY: it fills in `info` for an address of this library, whose name stays valid.
    let file = unsafe {
        libc::dladdr(here, &mut info);
        CStr::from_ptr(info.dli_fname)
    };
    let file = Path::new(file.to_str().expect("a path of text"));
    file.parent().expect("a directory").to_owned()
});

/// The only symbol that a caller looks for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: CK_FUNCTION_LIST_PTR_PTR) -> CK_RV {
    let spied: *const CK_FUNCTION_LIST = &*SPIED;
    unsafe { *list = spied.cast_mut() };
    CKR_OK
}

/// Defines a function that tells the spy and then does what kryoptic's does.
macro_rules! spied {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {
        $(unsafe extern "C" fn $name($($argument: $type),*) -> CK_RV {
            if let Some(code) = before(stringify!($name)) {
                return code;
            }
            let real = REAL.$name.expect("kryoptic has them all");
            unsafe { real($($argument),*) }
        })*
        fn spied() -> CK_FUNCTION_LIST {
            let mut list = *REAL;
            list.C_GetFunctionList = Some(C_GetFunctionList);
            list.C_Initialize = Some(C_Initialize);
            list.C_GetSlotList = Some(C_GetSlotList);
            list.C_Decrypt = Some(C_Decrypt);
            $(list.$name = Some($name);)*
            list
        }
    };
}

spied! {
    C_Finalize(reserved: CK_VOID_PTR);
    C_GetTokenInfo(slot: CK_SLOT_ID, info: CK_TOKEN_INFO_PTR);
    C_OpenSession(
        slot: CK_SLOT_ID, flags: CK_FLAGS, application: CK_VOID_PTR, notify: CK_NOTIFY,
        session: CK_SESSION_HANDLE_PTR
    );
    C_CloseSession(session: CK_SESSION_HANDLE);
    C_GetSessionInfo(session: CK_SESSION_HANDLE, info: CK_SESSION_INFO_PTR);
    C_Login(
        session: CK_SESSION_HANDLE, user: CK_USER_TYPE, pin: CK_UTF8CHAR_PTR, length: CK_ULONG
    );
    C_FindObjectsInit(session: CK_SESSION_HANDLE, template: CK_ATTRIBUTE_PTR, count: CK_ULONG);
    C_GetAttributeValue(
        session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, template: CK_ATTRIBUTE_PTR,
        count: CK_ULONG
    );
    C_DecryptInit(
        session: CK_SESSION_HANDLE, mechanism: CK_MECHANISM_PTR, key: CK_OBJECT_HANDLE
    );
    C_GenerateKeyPair(
        session: CK_SESSION_HANDLE, mechanism: CK_MECHANISM_PTR,
        public: CK_ATTRIBUTE_PTR, public_count: CK_ULONG,
        private: CK_ATTRIBUTE_PTR, private_count: CK_ULONG,
        public_key: CK_OBJECT_HANDLE_PTR, private_key: CK_OBJECT_HANDLE_PTR
    );
}

unsafe extern "C" fn C_Initialize(_: CK_VOID_PTR) -> CK_RV {
    if let Some(code) = before("C_Initialize") {
        return code;
    }
    let conf = DIRECTORY.join("kryoptic.conf").display().to_string();
    let conf = CString::new(format!("kryoptic_conf={conf}")).expect("no zero in it");
    let mut arguments: CK_C_INITIALIZE_ARGS = unsafe { std::mem::zeroed() };
    arguments.flags = CKF_OS_LOCKING_OK;
    arguments.pReserved = conf.as_ptr() as CK_VOID_PTR;
    let real = REAL.C_Initialize.expect("kryoptic has them all");
    unsafe { real(&mut arguments as *mut _ as CK_VOID_PTR) }
}

unsafe extern "C" fn C_GetSlotList(
    present: CK_BBOOL,
    slots: CK_SLOT_ID_PTR,
    count: CK_ULONG_PTR,
) -> CK_RV {
    if !is_gone() {
        if let Some(code) = before("C_GetSlotList") {
            return code;
        }
        let real = REAL.C_GetSlotList.expect("kryoptic has them all");
        return unsafe { real(present, slots, count) };
    }
    unsafe { *count = 0 };
    CKR_OK
}

/// It is called twice for one decryption: the first time for the length only.
unsafe extern "C" fn C_Decrypt(
    session: CK_SESSION_HANDLE,
    encrypted: CK_BYTE_PTR,
    encrypted_length: CK_ULONG,
    plain: CK_BYTE_PTR,
    length: CK_ULONG_PTR,
) -> CK_RV {
    if !plain.is_null()
        && let Some(code) = before("C_Decrypt")
    {
        return code;
    }
    let real = REAL.C_Decrypt.expect("kryoptic has them all");
    unsafe { real(session, encrypted, encrypted_length, plain, length) }
}

/// Writes down the call, and does to it what the directory's files say.
fn before(name: &str) -> Option<CK_RV> {
    let calls = fs::File::options()
        .create(true)
        .append(true)
        .open(DIRECTORY.join("calls"));
    let _ = calls.and_then(|mut calls| calls.write_all(format!("{name}\n").as_bytes()));
    let control = |what: &str| DIRECTORY.join(format!("{what}.{name}"));
    let number = |what: &str| fs::read_to_string(control(what)).ok()?.trim().parse().ok();
    if let Some(milliseconds) = number("delay") {
        sleep(Duration::from_millis(milliseconds));
    }
    while control("hang").exists() {
        sleep(Duration::from_millis(10));
    }
    if is_gone() && name != "C_Initialize" && name != "C_Finalize" {
        end_all_sessions();
        return Some(CKR_DEVICE_REMOVED);
    }
    number("fail").map(|code| code as CK_RV)
}

fn is_gone() -> bool {
    DIRECTORY.join("gone").exists()
}

/// As pulling a token does.
fn end_all_sessions() {
    let mut slots = [0; 16];
    let mut count = slots.len() as CK_ULONG;
    let (list, end) = (REAL.C_GetSlotList, REAL.C_CloseAllSessions);
    // SAFETY: there is room for as many slots as `count` says.
    unsafe {
        if list.expect("kryoptic has it")(CK_TRUE, slots.as_mut_ptr(), &mut count) == CKR_OK {
            for slot in &slots[..count as usize] {
                end.expect("kryoptic has it")(*slot);
            }
        }
    }
}
