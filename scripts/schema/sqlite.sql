CREATE TABLE IF NOT EXISTS version (
    table_name CHAR(32) NOT NULL,
    table_version INTEGER DEFAULT 0 NOT NULL,
    CONSTRAINT version_t_name_idx UNIQUE (table_name)
);
INSERT INTO version (table_name, table_version) VALUES ('acc', 7);
CREATE TABLE "acc" (
    "id" INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    "method" CHAR(16) DEFAULT '' NOT NULL,
    "from_tag" CHAR(64) DEFAULT '' NOT NULL,
    "to_tag" CHAR(64) DEFAULT '' NOT NULL,
    "callid" CHAR(64) DEFAULT '' NOT NULL,
    "sip_code" CHAR(3) DEFAULT '' NOT NULL,
    "sip_reason" CHAR(32) DEFAULT '' NOT NULL,
    "time" DATETIME NOT NULL,
    "setuptime" INTEGER DEFAULT 0 NOT NULL,
    "created" DATETIME DEFAULT NULL,
    "duration" INTEGER DEFAULT 0 NOT NULL,
    "ms_duration" INTEGER DEFAULT 0 NOT NULL
);
CREATE INDEX "acc_callid_idx" ON "acc" ("callid");
CREATE INDEX "acc_time_idx" ON "acc" ("time");
INSERT INTO version (table_name, table_version) VALUES ('missed_calls', 5);
CREATE TABLE "missed_calls" (
    "id" INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    "method" CHAR(16) DEFAULT '' NOT NULL,
    "from_tag" CHAR(64) DEFAULT '' NOT NULL,
    "to_tag" CHAR(64) DEFAULT '' NOT NULL,
    "callid" CHAR(64) DEFAULT '' NOT NULL,
    "sip_code" CHAR(3) DEFAULT '' NOT NULL,
    "sip_reason" CHAR(32) DEFAULT '' NOT NULL,
    "time" DATETIME NOT NULL,
    "setuptime" INTEGER DEFAULT 0 NOT NULL,
    "created" DATETIME DEFAULT NULL
);
CREATE INDEX "missed_calls_callid_idx" ON "missed_calls" ("callid");
CREATE INDEX "missed_calls_time_idx" ON "missed_calls" ("time");
CREATE TABLE "acc_calls" (
    "call_id" CHAR(32) NOT NULL PRIMARY KEY,
    "node" VARCHAR(255) DEFAULT '' NOT NULL,
    "callid" VARCHAR(255) DEFAULT '' NOT NULL,
    "from_tag" VARCHAR(255) DEFAULT '' NOT NULL,
    "to_tag" VARCHAR(255) DEFAULT '' NOT NULL,
    "time" DATETIME DEFAULT NULL,
    "updated" DATETIME DEFAULT NULL,
    "duration" INTEGER DEFAULT 0 NOT NULL
);
CREATE TABLE IF NOT EXISTS acc_delivery (journal CHAR(16) NOT NULL, segment VARCHAR(80) NOT NULL, reached BIGINT NOT NULL, PRIMARY KEY (journal, segment));
CREATE TABLE IF NOT EXISTS acc_seen (acc_id VARCHAR(32) NOT NULL, journal VARCHAR(16) NOT NULL, cause VARCHAR(8) NOT NULL, seen TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL);
