CREATE SCHEMA toast;
CREATE TABLE toast.texts (id bigint NOT NULL, title text NOT NULL, body text NOT NULL);
CREATE TABLE toast.files (id bigint NOT NULL, name text NOT NULL, content bytea NOT NULL);
CREATE TABLE toast.pictures (id bigint NOT NULL, name text NOT NULL, content bytea NOT NULL);
ALTER TABLE toast.pictures ALTER content SET STORAGE EXTERNAL;
