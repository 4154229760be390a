CREATE TABLE boarding_scans (
    scan_id bigserial,
    ticket_id bigint NOT NULL,
    gate text NOT NULL,
    scanned_at timestamptz NOT NULL
);
CREATE TABLE boarding_scans_h1 (CHECK (scanned_at < '2013-07-01Z')) INHERITS (boarding_scans);
CREATE TABLE boarding_scans_h2 (CHECK (scanned_at >= '2013-07-01Z')) INHERITS (boarding_scans);
INSERT INTO boarding_scans_h1 (ticket_id, gate, scanned_at)
SELECT ticket_id, pick('{A1,A2,B7,C11}', ticket_id), issued_at FROM tickets
WHERE ticket_id % 4 = 0 AND issued_at < '2013-07-01Z';
INSERT INTO boarding_scans_h2 (ticket_id, gate, scanned_at)
SELECT ticket_id, pick('{A1,A2,B7,C11}', ticket_id), issued_at FROM tickets
WHERE ticket_id % 4 = 0 AND issued_at >= '2013-07-01Z';
INSERT INTO boarding_scans (ticket_id, gate, scanned_at) VALUES (0, 'test gate', '2013-01-01Z');
