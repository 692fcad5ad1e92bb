/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The C interface of the acc module, beside the tables that SIP servers read.
 * Beside these functions the object has only the symbols that servers look for after dlopen: exports,
 * and for Kamailio module_version and module_flags.
 *
 * Made by cbindgen from src/host/capi.rs; do not edit, run: cargo test --test header -- --ignored
 */

#ifndef ACC_H
#define ACC_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Version of the module, such as "0.1.0".
const char *acc_version(void);

// Value of a counter; 0 if there is no counter of this name. `name` must be a terminated string or null.
//
// # Safety
// `name` is null or terminated.
uint64_t acc_counter(const char *name);

// Blocks in use in the shared memory for calls in progress, 0 before initialisation.
uint64_t acc_live_blocks(void);

// Size of these blocks in bytes.
uint64_t acc_live_bytes(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* ACC_H */
