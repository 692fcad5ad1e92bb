/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The interface of database modules, which OpenSIPS and Kamailio have in common, in our own words; and the string that
 * both pass around. opensips_abi.h includes it, and its rules are those of that file. In Kamailio the functions stand at
 * other places of a module's table: KM_DB_FUNC_* of kamailio_abi.h.
 */
#ifndef OS_DATABASE_ABI_H
#define OS_DATABASE_ABI_H

#ifndef OS_ABI_HOST_TYPES

typedef struct os_db_con os_db_con; /* a connection to a database */
typedef struct os_db_val os_db_val;
typedef struct os_db_func os_db_func;

/* a string with a length; not necessarily terminated */
typedef struct os_str {
	char *s;
	int len;
} os_str;

#endif /* OS_ABI_HOST_TYPES */

/* the connection keeps the address of the table's name until the next use_table */
typedef int os_db_use_table_fn(os_db_con *, const os_str *table);
typedef os_db_con *os_db_init_fn(const os_str *url);
typedef void os_db_close_fn(os_db_con *);
typedef int os_db_insert_fn(const os_db_con *, os_str *const *columns, const os_db_val *, int n);
typedef int os_db_bind_mod_fn(const os_str *url, os_db_func *);

/* os_db_val.type */
#define OS_DB_INT 0u
#define OS_DB_STR 4u
#define OS_DB_DATETIME 5u

/* what we reserve for a module's table; the real one has at most 192 bytes */
#define OS_DB_FUNC_ROOM 512

#ifndef OS_ABI_HOST_TYPES

/* a value of a row */
struct os_db_val {
	unsigned int type; /* OS_DB_* */
	int nul;           /* 1: there is no value */
	int free;
	union {
		int int_val;
		long time_val; /* seconds since 1970 */
		os_str str_val;
	} val;
};

/* the head of a database module's table in OpenSIPS */
struct os_db_func {
	unsigned int cap;
	os_db_use_table_fn *use_table;
	os_db_init_fn *init;
	os_db_close_fn *close;
	void *others1[4];
	os_db_insert_fn *insert;
};

#endif /* OS_ABI_HOST_TYPES */

#endif /* OS_DATABASE_ABI_H */
