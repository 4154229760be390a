ALTER TABLE tickets ADD FOREIGN KEY (booking_id) REFERENCES bookings;
ALTER TABLE tickets ADD FOREIGN KEY (flight_id) REFERENCES flights;
ALTER TABLE documents ADD FOREIGN KEY (tailnum) REFERENCES planes;
