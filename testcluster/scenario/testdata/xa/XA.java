import java.sql.*;
import java.util.Arrays;
import javax.sql.XAConnection;
import javax.transaction.xa.*;
import org.postgresql.xa.PGXADataSource;

/** Two-phase commit as the JDBC driver does it for transaction managers: prepared on one node, found and ended on another. */
public class XA {
    record Name(int getFormatId, byte[] getGlobalTransactionId, byte[] getBranchQualifier) implements Xid {
        public int getFormatId() { return getFormatId; }
        public byte[] getGlobalTransactionId() { return getGlobalTransactionId; }
        public byte[] getBranchQualifier() { return getBranchQualifier; }
        boolean is(Xid x) { return x.getFormatId() == getFormatId && Arrays.equals(x.getGlobalTransactionId(), getGlobalTransactionId) && Arrays.equals(x.getBranchQualifier(), getBranchQualifier); }
    }
    static void check(boolean b) { if (!b) throw new RuntimeException("assertion failed"); }
    static XAConnection connect(String port) throws SQLException {
        PGXADataSource s = new PGXADataSource();
        s.setUrl("jdbc:postgresql://127.0.0.1:" + port + "/postgres?sslmode=disable");
        s.setUser("postgres");
        return s.getXAConnection();
    }
    static Xid[] recover(XAResource r) throws XAException { return r.recover(XAResource.TMSTARTRSCAN | XAResource.TMENDRSCAN); }
    static void insert(XAConnection c, XAResource r, Name x, String v) throws Exception {
        r.start(x, XAResource.TMNOFLAGS);
        try (Connection h = c.getConnection(); PreparedStatement s = h.prepareStatement("insert into xa values (?, 0)")) { s.setString(1, v); s.executeUpdate(); }
        r.end(x, XAResource.TMSUCCESS);
    }
    public static void main(String[] args) throws Exception {
        XAConnection a = connect(args[0]), b = connect(args[1]);
        XAResource ra = a.getXAResource(), rb = b.getXAResource();
        for (boolean commit : new boolean[] { true, false }) {
            Name x = new Name(7, "transaction".getBytes(), new byte[] { 0, -1, (byte) (commit ? 1 : 2) });
            insert(a, ra, x, "java" + commit);
            check(ra.prepare(x) == XAResource.XA_OK);
            check(Arrays.stream(recover(rb)).filter(x::is).count() == 1);
            if (commit) rb.commit(x, false); else rb.rollback(x);
            check(Arrays.stream(recover(ra)).filter(x::is).count() == 0);
            try { rb.commit(x, false); check(false); } catch (XAException e) { check(e.errorCode == XAException.XAER_NOTA || e.errorCode == XAException.XAER_RMERR); }
        }
        Name one = new Name(8, "one".getBytes(), "phase".getBytes());
        insert(a, ra, one, "java one phase");
        ra.commit(one, true);
        a.close(); b.close();
        System.out.println("ok");
    }
}
